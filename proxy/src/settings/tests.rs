//! From a command line and a file to settings, or to the lines that are printed.

use std::io::Write;
use std::time::Duration;

use super::*;

const ADS: &str = r#"
node: {id: sidecar~web-1.shop, cluster: web, metadata: {NAMESPACE: shop, POD_NAME: web-1}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services:
    - envoy_grpc: {cluster_name: sidegate}
      initial_metadata: [{key: x-token, value: t}]
  cds_config: {resource_api_version: V3, ads: {}}
  lds_config: {resource_api_version: V3, ads: {}}
static_resources:
  clusters:
  - name: sidegate
    type: STRICT_DNS
    connect_timeout: 1.5s
    load_assignment:
      cluster_name: sidegate
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 15010}}}
        - endpoint: {address: {socket_address: {address: control.example, port_value: 15011}}}
"#;

/// Reads a file with this content; the file's name stands as FILE in the texts.
fn read(content: &str, flags: &[&str]) -> Result<Settings, String> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let name = file.path().display().to_string();
    let arguments = ["-c", &name].into_iter().chain(flags.iter().copied()).map(OsString::from);
    Settings::read(arguments).map_err(|stop| stop.to_string().replace(&name, "FILE"))
}

/// The lines about a file.
fn refusal(content: &str) -> Vec<String> {
    read(content, &[]).map(|_| ()).unwrap_err().lines().map(str::to_owned).collect()
}

#[test]
fn a_bootstrap_with_a_control_plane() {
    let settings = read(ADS, &["--concurrency", "3", "-l", "warning"]).unwrap();
    assert_eq!(settings.node.id, "sidecar~web-1.shop");
    assert!(settings.node.metadata.as_ref().unwrap().fields.contains_key("SIDEGATE"));
    assert_eq!(settings.admin, Some(([127, 0, 0, 1], 15000).into()));
    assert_eq!((settings.concurrency.get(), settings.log_level), (3, LevelFilter::WARN));
    let ads = settings.ads.as_ref().unwrap();
    let expected = Ads {
        cluster: "sidegate".to_owned(),
        endpoints: vec![
            AdsEndpoint { host: "127.0.0.1".to_owned(), port: 15010 },
            AdsEndpoint { host: "control.example".to_owned(), port: 15011 },
        ],
        authority: None,
        connect_timeout: Duration::from_millis(1500),
        initial_metadata: vec![("x-token".to_owned(), "t".to_owned())],
        tls: None,
        clusters: true,
        listeners: true,
    };
    assert_eq!(ads, &expected);
    assert_eq!((settings.clusters().len(), settings.listeners().len()), (1, 0));
    assert!(settings.ignored.is_empty(), "{:?}", settings.ignored);
}

#[test]
fn a_static_bootstrap_has_neither_admin_nor_control_plane() {
    let settings = read("static_resources: {listeners: [{name: a}]}\nadmin: {}\n", &[]).unwrap();
    assert_eq!((settings.admin, settings.ads.is_none(), settings.listeners().len()), (None, true, 1));
    assert_eq!(settings.log_level, LevelFilter::INFO);
}

#[test]
fn flags_replace_the_node() {
    let flags = ["--service-node", "me", "--service-cluster", "us", "--service-zone", "z"];
    let node = read(ADS, &flags).unwrap().node;
    assert_eq!(
        (node.id.as_str(), node.cluster.as_str(), node.locality.unwrap().zone.as_str()),
        ("me", "us", "z")
    );
}

#[test]
fn inline_yaml_is_merged_over_the_file() {
    let inline = "{node: {id: other}, static_resources: {clusters: [{name: more}]}, \
                  admin: {address: {socket_address: {address: '::1', port_value: 1}}}}";
    let settings = read(ADS, &["--config-yaml", inline]).unwrap();
    assert_eq!((settings.node.id.as_str(), settings.node.cluster.as_str()), ("other", "web"));
    assert!(settings.node.metadata.as_ref().unwrap().fields.contains_key("POD_NAME"));
    let names: Vec<&str> = settings.clusters().iter().map(|cluster| cluster.name.as_str()).collect();
    assert_eq!(names, ["sidegate", "more"]);
    assert_eq!(settings.admin.unwrap().to_string(), "[::1]:1");
}

#[test]
fn inline_yaml_is_enough_and_gives_its_name_to_mistakes() {
    let read = |yaml: &str| Settings::read(["--config-yaml", yaml].map(OsString::from));
    assert_eq!(read("static_resources: {}").unwrap().source, "--config-yaml");
    let text = read("node: {idd: x}").unwrap_err().to_string();
    assert!(text.starts_with("--config-yaml:1: node.idd: unknown field"), "{text}");
}

#[test]
fn mistakes_of_both_sources_come_one_per_line() {
    let text = read("adminn: {}\nnode: {id: 5}\n", &["--config-yaml", "nodes: {}"]).unwrap_err();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("FILE:1: adminn: unknown field"), "{text}");
    assert!(lines[1].starts_with("FILE:2: node.id: expected a string"), "{text}");
    assert!(lines[2].starts_with("--config-yaml:1: nodes: unknown field"), "{text}");
}

#[test]
fn other_protocols_are_refused_with_what_to_write() {
    assert_eq!(
        refusal(&ADS.replace("api_type: DELTA_GRPC", "api_type: GRPC")),
        [
            "FILE: dynamic_resources.ads_config.api_type: write DELTA_GRPC, the only protocol spoken here (found GRPC)"
        ]
    );
    assert_eq!(
        refusal(
            &ADS.replace(
                "envoy_grpc: {cluster_name: sidegate}",
                "google_grpc: {target_uri: x, stat_prefix: y}"
            )
        ),
        [
            "FILE: dynamic_resources.ads_config.grpc_services[0]: write `envoy_grpc: {cluster_name: …}` with the name of a \
          static cluster"
        ]
    );
    assert_eq!(
        refusal(&ADS.replace("cluster_name: sidegate}", "cluster_name: sidegat}")),
        [
            "FILE: dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: no cluster in static_resources is \
          called \"sidegat\"; there are sidegate"
        ]
    );
    let by_file = ADS.replace(
        "cds_config: {resource_api_version: V3, ads: {}}",
        "cds_config: {path_config_source: {path: /x}}",
    );
    assert!(
        refusal(&by_file)[0].starts_with("FILE: dynamic_resources.cds_config: resources come by ADS only")
    );
    assert!(refusal(&ADS.replace("STRICT_DNS", "EDS"))[0].contains("static_resources.clusters[0].type"));
    assert_eq!(
        refusal("dynamic_resources: {cds_config: {ads: {}}}"),
        ["FILE: dynamic_resources.ads_config: is missing, and `ads: {}` refers to it"]
    );
}

#[test]
fn several_mistakes_of_meaning_are_reported_together() {
    let broken = ADS
        .replace("id: sidecar~web-1.shop, ", "")
        .replace("{address: 127.0.0.1, port_value: 15000}", "{address: localhost, port_value: 15000}")
        .replace("DELTA_GRPC", "REST");
    assert_eq!(refusal(&broken).len(), 3, "{:#?}", refusal(&broken));
}

#[test]
fn what_does_nothing_is_said() {
    let ignored =
        read("stats_sinks: [{name: x}]\nlayered_runtime: {layers: [{name: l, admin_layer: {}}]}\n", &[])
            .unwrap()
            .ignored;
    assert_eq!(ignored.len(), 2, "{ignored:?}");
    assert!(ignored[0].starts_with("stats_sinks: "));
}

#[test]
fn wrong_flags_and_missing_files_are_told_from_wrong_configuration() {
    let stop = |arguments: &[&str]| Settings::read(arguments.iter().map(OsString::from)).unwrap_err();
    for arguments in [
        &[][..],
        &["-c"],
        &["--mode", "dance", "-c", "x"],
        &["--concurrency", "0", "-c", "x"],
        &["-l", "loud", "-c", "x"],
    ] {
        assert!(matches!(stop(arguments), Stop::Flags(error) if error.exit_code() == 2), "{arguments:?}");
    }
    assert!(matches!(stop(&["--version"]), Stop::Flags(error) if error.exit_code() == 0));
    let missing = stop(&["-c", "/nowhere/at/all.yaml"]);
    assert!(
        matches!(&missing, Stop::Unreadable(text) if text.starts_with("/nowhere/at/all.yaml: No such file")),
        "{missing}"
    );
    assert_eq!(missing.report(), ExitCode::from(2));
}

#[test]
fn the_name_of_a_file_says_how_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        Settings::read(["-c".into(), path.into_os_string()]).map_err(|stop| stop.to_string())
    };
    let wire =
        Bootstrap { node: Some(Node { id: "n".to_owned(), ..Node::default() }), ..Bootstrap::default() };
    assert_eq!(read("a.pb", &wire.encode_to_vec()).unwrap().node.id, "n");
    assert_eq!(read("a.json", b"{\"node\": {\"id\": \"n\"}}").unwrap().node.id, "n");
    assert_eq!(read("plain", b"node: {id: n}").unwrap().node.id, "n");
    assert!(read("a.json", b"node: {id: n}").unwrap_err().contains("not readable as JSON"));
    assert!(read("a.pb_text", b"node {}").unwrap_err().contains("write YAML or JSON"));
    assert!(read("a.pb", b"\xff\xff").unwrap_err().contains("no encoded Bootstrap"));
    assert!(read("a.yaml", b"\xff\xff").unwrap_err().contains("not UTF-8"));
}

#[test]
fn validation_takes_the_deeper_check_into_account() {
    let settings = read(ADS, &["--mode", "validate"]).unwrap();
    assert_eq!(settings.mode, Mode::Validate);
    assert_eq!(
        settings.validate(|_| (Vec::new(), vec!["field: has no effect".to_owned()])),
        ExitCode::SUCCESS
    );
    assert_eq!(
        settings.validate(|_| (vec!["static_resources.listeners[0]: no".to_owned()], Vec::new())),
        ExitCode::FAILURE
    );
}

/// The bootstrap above with an identity and TLS to the control plane; files are made beside it.
fn with_identity(folder: &std::path::Path, identity: &str, socket: &str) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    std::fs::write(at("root.pem"), "roots").unwrap();
    std::fs::write(at("token"), "token").unwrap();
    let metadata = format!("POD_NAME: web-1, SIDEGATE_IDENTITY: {identity}");
    let text = ADS.replace("POD_NAME: web-1", &metadata);
    let socket =
        format!("    connect_timeout: 1.5s\n    transport_socket: {{name: tls, typed_config: {socket}}}");
    text.replace("    connect_timeout: 1.5s", &socket).replace("DIR", &folder.display().to_string())
}

const IDENTITY: &str = "{ca_address: 'localhost:15012', root_file: DIR/root.pem, token_file: DIR/token}";
const SOCKET: &str =
    "{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
      sni: sidegate.sidegate-system.svc, common_tls_context: {
      validation_context: {trusted_ca: {filename: DIR/root.pem}},
      tls_certificate_sds_secret_configs: [{name: default, sds_config: {api_config_source: {api_type: GRPC,
      grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}}}]}}";

#[test]
fn an_identity_and_tls_to_the_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let settings = read(&with_identity(folder.path(), IDENTITY, SOCKET), &[]).unwrap();
    let identity = settings.identity.unwrap();
    assert_eq!((identity.ca_host.as_str(), identity.ca_port), ("localhost", 15012));
    assert_eq!(identity.ca_server_name, "sidegate.sidegate-system.svc");
    assert_eq!(identity.ttl, Duration::from_secs(86_400));
    let tls = settings.ads.unwrap().tls.unwrap();
    assert_eq!(tls.server_name.as_deref(), Some("sidegate.sidegate-system.svc"));
    assert_eq!(tls.certificate, AdsCertificate::Own);
    assert_eq!(tls.roots, Source::File(folder.path().join("root.pem")));
    assert!(tls.names.is_empty());
    let named = SOCKET.replace(
        "trusted_ca: {filename: DIR/root.pem}",
        "trusted_ca: {inline_string: roots}, match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: 'spiffe://td/cp'}}]",
    );
    let settings = read(&with_identity(folder.path(), IDENTITY, &named), &[]).unwrap();
    let tls = settings.ads.unwrap().tls.unwrap();
    assert_eq!(tls.names, [AdsName::Uri("spiffe://td/cp".to_owned())]);
    assert_eq!(tls.roots, Source::Inline(b"roots".as_slice().into()));
}

#[test]
fn mistakes_in_an_identity_are_one_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let lines = |identity: &str, socket: &str| {
        let name = folder.path().display().to_string();
        let lines = refusal(&with_identity(folder.path(), identity, socket));
        lines.into_iter().map(|line| line.replace(&name, "DIR")).collect::<Vec<_>>()
    };
    let at = "FILE: node.metadata.SIDEGATE_IDENTITY";
    assert_eq!(
        lines("true", SOCKET),
        [format!("{at}: expected an object with ca_address, root_file and token_file")]
    );
    assert_eq!(
        lines("{ca_address: 1, tll: 24h, token_file: DIR/token}", SOCKET),
        [
            format!(
                "{at}.tll: is no field of it; there are ca_address, ca_server_name, root_file, token_file, ttl, id, external"
            ),
            format!("{at}.ca_address: expected a string"),
            format!("{at}.root_file: is required"),
        ]
    );
    assert_eq!(
        lines("{ca_address: localhost, root_file: DIR/none, token_file: DIR, ttl: 1y}", SOCKET),
        [
            format!(
                r#"{at}.ca_address: expected HOST:PORT, e.g. 127.0.0.1:15012 or [::1]:15012, found "localhost""#
            ),
            format!(
                "{at}.root_file: cannot read DIR/none: No such file or directory (os error 2); the certificates that vouch for the authority must be in it"
            ),
            format!("{at}.token_file: DIR is no file: the token that proves who this proxy is must be in it"),
            format!(r#"{at}.ttl: expected 5s to 90 days, e.g. 24h, 90m or 3600s, found "1y""#),
        ]
    );
}

#[test]
fn tls_to_a_control_plane_that_proves_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let line = |from: &str, to: &str| {
        assert!(SOCKET.contains(from));
        let text = with_identity(folder.path(), IDENTITY, &SOCKET.replace(from, to));
        let lines = refusal(&text);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].replace("FILE: static_resources.clusters[0].transport_socket.typed_config.", "")
    };
    assert!(line("sni: sidegate.sidegate-system.svc,", "").starts_with("sni: is required, or match_typed"));
    assert!(line("trusted_ca: {filename: DIR/root.pem}", "").contains("trusted_ca: is required"));
    assert!(line("{filename: DIR/root.pem}", "{filename: DIR/none}").contains("cannot read"));
    assert!(
        line("trusted_ca:", "trust_chain_verification: ACCEPT_UNTRUSTED, trusted_ca:")
            .contains("has more than")
    );
    assert!(line("name: default,", "name: mine,").contains("is called `default`"));
    // Without an identity there is no `default`.
    let text = with_identity(folder.path(), IDENTITY, SOCKET).replace("SIDEGATE_IDENTITY", "OTHER");
    assert!(refusal(&text)[0].contains("add node.metadata.SIDEGATE_IDENTITY"), "{:?}", refusal(&text));
}
