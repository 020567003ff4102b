//! Holds `descriptors/envoy.bin` to the descriptor set that the crate `envoy-types` is built from.
//!
//! After an update of `envoy-types`, `UPDATE_DESCRIPTORS=1 cargo test -p sidegate-xds --test descriptors` writes it anew.

#![allow(clippy::unwrap_used, reason = "a damaged set shall fail the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};
use prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

#[test]
fn the_committed_set_is_that_of_envoy_types() {
    let Some(source) = crate_directory().map(|directory| directory.join("src/generated/types.bin")) else {
        eprintln!("skipped: cargo does not say where the sources of envoy-types are");
        return;
    };
    let Ok(full) = std::fs::read(&source) else {
        eprintln!("skipped: {} is not there", source.display());
        return;
    };
    let expected = build(&full);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors/envoy.bin");
    if std::env::var_os("UPDATE_DESCRIPTORS").is_some() {
        std::fs::write(&committed, &expected).unwrap();
    }
    let found = std::fs::read(&committed).unwrap_or_default();
    assert!(found == expected, "descriptors/envoy.bin is out of date; run with UPDATE_DESCRIPTORS=1");
}

/// Where cargo keeps the sources of `envoy-types`.
fn crate_directory() -> Option<PathBuf> {
    let cargo = std::env::var_os("CARGO")?;
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let packages = metadata["packages"].as_array()?;
    let package = packages.iter().find(|package| package["name"] == "envoy-types")?;
    Some(Path::new(package["manifest_path"].as_str()?).parent()?.to_owned())
}

/// The set without comments, plus what it lacks. It is cut on the wire, because decoding into `prost_types` would lose the
/// options that Envoy's protos define themselves (constraints, sensitive fields).
fn build(full: &[u8]) -> Vec<u8> {
    let mut set = Vec::new();
    for (number, field) in fields(full) {
        assert_eq!(number, FILE, "a FileDescriptorSet holds files only");
        let kept = fields(content(field)).filter(|(number, _)| *number != SOURCE_CODE_INFO);
        put_file(&mut set, &kept.flat_map(|(_, field)| field).copied().collect::<Vec<u8>>());
    }
    for package in ["xds.type.v3", "udpa.type.v1"] {
        put_file(&mut set, &typed_struct(package).encode_to_vec());
    }
    set
}

/// The fields of a message: number, and bytes with the key.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        let start = message;
        let (number, wire_type) = message.has_remaining().then(|| decode_key(&mut message).unwrap())?;
        skip_field(wire_type, number, &mut message, DecodeContext::default()).unwrap();
        Some((number, &start[..start.len() - message.len()]))
    })
}

/// What a length-delimited field holds.
fn content(mut field: &[u8]) -> &[u8] {
    assert_eq!(decode_key(&mut field).unwrap().1, WireType::LengthDelimited);
    decode_varint(&mut field).unwrap();
    field
}

fn put_file(set: &mut Vec<u8>, file: &[u8]) {
    encode_key(FILE, WireType::LengthDelimited, set);
    encode_varint(file.len() as u64, set);
    set.extend_from_slice(file);
}

/// `message TypedStruct { string type_url = 1; google.protobuf.Struct value = 2; }`
fn typed_struct(package: &str) -> FileDescriptorProto {
    let field = |name: &str, number, kind: Type, type_name: Option<&str>| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        type_name: type_name.map(str::to_owned),
        ..FieldDescriptorProto::default()
    };
    FileDescriptorProto {
        name: Some(format!("{}/typed_struct.proto", package.replace('.', "/"))),
        package: Some(package.to_owned()),
        dependency: vec!["google/protobuf/struct.proto".to_owned()],
        message_type: vec![DescriptorProto {
            name: Some("TypedStruct".to_owned()),
            field: vec![
                field("type_url", 1, Type::String, None),
                field("value", 2, Type::Message, Some(".google.protobuf.Struct")),
            ],
            ..DescriptorProto::default()
        }],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    }
}

const FILE: u32 = 1;
const SOURCE_CODE_INFO: u32 = 9;
