//! Row I4: paths in every guise, against origins that decode them by libraries of their own: Python, Node, nginx.

use std::net::SocketAddr;
use std::path::Path;

use sidegate_tests::process::Process;
use sidegate_tests::sandbox::address;

use super::*;

const SECRET: &str = "TOP-SECRET-BYTES";

/// Requests of a battery: `SIDEGATE_MUTATIONS`, or a few thousand.
pub(super) fn mutations() -> usize {
    let asked = std::env::var("SIDEGATE_MUTATIONS").ok();
    asked.map_or(3_000, |text| text.parse().expect("SIDEGATE_MUTATIONS is a number"))
}

/// Chance that is the same every time (xorshift).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// A server of files with a secret among them.
struct Server {
    name: &'static str,
    address: SocketAddr,
    _process: Process,
}

impl Server {
    /// Those that this machine has.
    async fn all(sandbox: &Sandbox) -> Vec<Self> {
        let root = sandbox.path().join("www");
        for (file, text) in [("private/secret.txt", SECRET), ("public/index.txt", "public")] {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().expect("it has one")).expect("a folder");
            std::fs::write(file, text).expect("a file");
        }
        let mut servers = Vec::new();
        for (name, program) in [("python", "python3"), ("node", "node"), ("nginx", "nginx")] {
            let Some(program) = found(program) else {
                eprintln!("SKIPPED: no {program} on this machine");
                continue;
            };
            let address = address();
            let arguments = match name {
                "python" => vec![
                    "-c".to_owned(),
                    PYTHON.to_owned(),
                    address.ip().to_string(),
                    address.port().to_string(),
                    root.display().to_string(),
                ],
                "node" => vec![
                    "-e".to_owned(),
                    NODE.to_owned(),
                    address.ip().to_string(),
                    address.port().to_string(),
                    root.display().to_string(),
                ],
                _ => vec!["-c".to_owned(), nginx(sandbox, &root, address).display().to_string()],
            };
            let process = Process::start(sandbox, name, &program, arguments);
            wait::until(name, async || tokio::net::TcpStream::connect(address).await.ok()).await;
            let direct = sidegate_tests::client::call(address, &Call::get("/private/secret.txt")).await;
            assert_eq!(direct.text(), SECRET, "{name} serves its files");
            servers.push(Self { name, address, _process: process });
        }
        servers
    }
}

fn found(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The standard library's file server, kept alive between requests.
const PYTHON: &str = "
import sys, functools, http.server
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *arguments): pass
handler = functools.partial(Handler, directory=sys.argv[3])
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), handler).serve_forever()
";

/// Decodes by the platform's own URL and path libraries, and tries hard to find a file.
const NODE: &str = "
const http = require('http'), fs = require('fs'), path = require('path');
const [host, port, root] = process.argv.slice(1);
http.createServer((request, response) => {
  const tries = new Set();
  const raw = request.url.split('?')[0];
  tries.add(raw);
  try { tries.add(new URL(request.url, 'http://a.test').pathname); } catch (error) {}
  for (const text of [...tries]) {
    try { tries.add(decodeURIComponent(text)); } catch (error) {}
    tries.add(unescape(text));
  }
  for (const text of [...tries]) tries.add(text.split('/').map(part => part.split(';')[0]).join('/'));
  for (const text of [...tries]) tries.add(text.replaceAll('\\\\', '/'));
  for (const text of tries) {
    try {
      const body = fs.readFileSync(path.join(root, path.posix.normalize('/' + text)));
      response.writeHead(200, {'content-length': body.length});
      return response.end(body);
    } catch (error) {}
  }
  response.writeHead(404, {'content-length': 0});
  response.end();
}).listen(Number(port), host);
";

fn nginx(sandbox: &Sandbox, root: &Path, address: SocketAddr) -> std::path::PathBuf {
    let folder = sandbox.path().display();
    let root = root.display();
    let text = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
         events {{ worker_connections 64; }}
         http {{
           access_log off; keepalive_requests 1000000;
           client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
           uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
           server {{ listen {address}; root {root}; }}
         }}"
    );
    sandbox.write("nginx.conf", &text)
}

/// Ways to write the way to the secret.
fn mutate(dice: &mut Dice) -> String {
    let bases = [
        "/private/secret.txt",
        "/public/../private/secret.txt",
        "/public/x/../../private/secret.txt",
        "/private/./secret.txt",
        "/private//secret.txt",
        "/private/x/../secret.txt",
        "/public/..;/private/secret.txt",
        "/;/private/secret.txt",
    ];
    let mut path = bases[dice.below(bases.len())].to_owned();
    for _ in 0..dice.below(5) {
        let at = dice.below(path.len());
        let Some(character) = path[at..].chars().next().filter(|_| path.is_char_boundary(at)) else {
            continue;
        };
        let byte = character as u32 as u8;
        let (lower, upper) = (format!("%{byte:02x}"), format!("%{byte:02X}"));
        let changed = match dice.below(14) {
            0 | 1 => lower,
            2 => upper,
            3 => format!("%25{byte:02x}"),
            4 => format!("{character};a=b"),
            5 if character == '/' => "/./".to_owned(),
            5 => character.to_uppercase().to_string(),
            6 if character == '/' => "//".to_owned(),
            6 => lower,
            7 if character == '/' => "\\".to_owned(),
            7 if character == '.' => "%c0%ae".to_owned(),
            7 => upper,
            8 if character == '/' => "%5c".to_owned(),
            8 => lower,
            9 if character == '/' => "/x/..%2f".to_owned(),
            9 => format!("%2525{byte:02x}"),
            10 if character == '/' => "%2f".to_owned(),
            10 => lower,
            11 if character == '/' => "/..;/".to_owned(),
            11 => upper,
            12 => format!("{character}%00"),
            _ => format!("%{:02x}", dice.below(256)),
        };
        path.replace_range(at..at + character.len_utf8(), &changed);
    }
    match dice.below(12) {
        0 => path.push('/'),
        1 => path.push('.'),
        2 => path.push_str("?x=/public/"),
        3 => path.push_str("%3fx"),
        4 => path.push_str(";.css"),
        5 => path.push_str("%20"),
        6 => path.insert_str(0, "/public"),
        7 => path = format!("http://HOST{path}"),
        _ => {}
    }
    path
}

#[allow(clippy::too_many_lines, reason = "one table, read from top to bottom")]
#[tokio::test]
async fn i4_no_guise_of_a_path_gets_past_a_policy() {
    let sandbox = Sandbox::new();
    let servers = Server::all(&sandbox).await;
    assert!(!servers.is_empty());
    let regex = json!({"url_path": {"path": {"safe_regex": {"regex": "/private/[a-z]+\\.txt"}}}});
    let template = json!({"uri_template": {"name": "t", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
        "path_template": "/private/{**}"}}});
    let exact = || json!({"url_path": {"path": {"exact": "/private/secret.txt"}}});
    let policies = [
        ("deny-prefix", rules("DENY", "p", path_prefix("/private/"), any())),
        ("deny-exact", rules("DENY", "p", exact(), any())),
        ("deny-regex", rules("DENY", "p", regex, any())),
        ("deny-template", rules("DENY", "p", template, any())),
        (
            "deny-target",
            rules(
                "DENY",
                "p",
                json!({"header": {"name": ":path", "string_match": {"contains": "/private/secret"}}}),
                any(),
            ),
        ),
        ("allow-public", rules("ALLOW", "p", path_prefix("/public/"), any())),
        ("allow-others", rules("ALLOW", "p", json!({"not_rule": exact()}), any())),
        ("open", Value::Null),
    ];
    // What a gateway of ours asks for, and what stands in the protocol's defaults: nothing is made canonical.
    let forms = ["{normalize_path: true, merge_slashes: true}", "{normalize_path: false}"];
    let mut count = 0;
    let mut would_leak = 0;
    for (form, seed) in forms.into_iter().zip(1..) {
        let mut gateway = Gateway::new();
        let mut hosts = Vec::new();
        for server in &servers {
            gateway = gateway.cluster(server.name, &[server.address]);
            for (name, rules) in &policies {
                let rbac = if rules.is_null() { json!({}) } else { json!({"rules": rules}) };
                let own = json!({NAME: {"@type": format!("type.googleapis.com/{PER_ROUTE}"), "rbac": rbac}});
                let host = format!("{}.{name}.test", server.name);
                hosts.push(json!({"name": host, "domains": [host], "typed_per_filter_config": own,
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": server.name}}]}));
            }
        }
        let proxy = gateway
            .virtual_hosts(&Value::from(hosts).to_string())
            .http(&filters(&[http_filter(json!({}))]))
            .http(form)
            .start(&sandbox)
            .await;
        let mut dice = Dice::new(seed);
        let rounds = (mutations() / forms.len() / servers.len() / policies.len()).max(1);
        let mut client = Http1::connect(proxy.address).await.unwrap();
        for _ in 0..rounds {
            let path = mutate(&mut dice);
            for server in &servers {
                for (name, _) in &policies {
                    if !client.is_reusable() {
                        client = Http1::connect(proxy.address).await.unwrap();
                    }
                    let host = format!("{}.{name}.test", server.name);
                    let target = path.replace("HOST", &host);
                    let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
                    client.send(request.as_bytes()).await.unwrap();
                    let response = wait::within("a response", client.response("GET")).await.unwrap();
                    let secret = response.text().contains(SECRET);
                    count += 1;
                    if *name == "open" {
                        would_leak += usize::from(secret);
                    } else {
                        assert!(!secret, "{} behind {name}, {form}: {target}", server.name);
                    }
                }
            }
        }
        for server in &servers {
            for (name, target, status) in [
                ("deny-prefix", "/public/index.txt", 200),
                ("deny-exact", "/public/index.txt?private", 200),
                ("deny-template", "/private/secret.txt", 403),
                ("allow-public", "/public/index.txt", 200),
                ("allow-public", "/private/secret.txt", 403),
                ("allow-others", "/public/index.txt", 200),
            ] {
                let host = format!("{}.{name}.test", server.name);
                let response = proxy.call(&Call::get(target).host(&host)).await;
                assert_eq!(response.status, status, "{host} {target}");
            }
        }
    }
    eprintln!("{count} requests, {would_leak} of which were answered with the secret where no policy stood");
    assert!(would_leak > count / 100, "the mutations are no danger: {would_leak} of {count}");
}
