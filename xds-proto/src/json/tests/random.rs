//! Random text, random values and random near-valid documents: nothing panics, and where `prost-reflect`'s own reader accepts
//! a document, ours reads the same message from it.

use std::sync::OnceLock;

use proptest::prelude::*;
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Tree, json};

use super::*;

/// One set for all cases of these tests.
fn shared() -> &'static Descriptors {
    static SHARED: OnceLock<Descriptors> = OnceLock::new();
    SHARED.get_or_init(descriptors)
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let key = prop_oneof![
        Just("@type".to_owned()),
        Just("static_resources".to_owned()),
        Just("listeners".to_owned()),
        Just("node".to_owned()),
        Just("metadata".to_owned()),
        Just("typed_config".to_owned()),
        Just("filter_chains".to_owned()),
        Just("value".to_owned()),
        ".{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        any::<f64>().prop_map(Tree::from),
        ".{0,8}".prop_map(Tree::from),
        Just(Tree::from("type.googleapis.com/google.protobuf.Any")),
        Just(Tree::from("type.googleapis.com/google.protobuf.Value")),
        Just(Tree::from("type.googleapis.com/envoy.config.listener.v3.Listener")),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Tree::from),
            prop::collection::btree_map(key.clone(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_the_reader_panic(text in "[-a-z0-9:&*<!|>#\\[\\]{}\"', \n\\\\]{0,200}") {
        let _ = shared().decode::<Bootstrap>(&text, Format::Auto);
        let _ = shared().decode::<Bootstrap>(&text, Format::Json);
    }

    #[test]
    fn no_value_makes_the_reader_panic(tree in any_tree()) {
        let _ = shared().decode::<Bootstrap>(&tree.to_string(), Format::Json);
        let in_place = json!({"static_resources": {"listeners": [tree]}});
        let _ = shared().decode::<Bootstrap>(&to_yaml(&in_place).unwrap(), Format::Yaml);
    }

    #[test]
    fn no_bytes_make_the_writer_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        shared().render(&Any { type_url: Bootstrap::type_url(), value: bytes });
    }

    #[test]
    fn both_readers_agree(root in 0..ROOTS.len(), choices in prop::collection::vec(any::<u8>(), 100..1500)) {
        let descriptor = shared().pool.get_message_by_name(ROOTS[root]).unwrap();
        let tree = Author { choices: choices.into_iter() }.object(&descriptor, 9);
        let text = tree.to_string();
let mut reader = serde_json::Deserializer::from_str(&text);
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        let theirs = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut reader, &options);
        let ours = shared().encode(ROOTS[root], &text, Format::Json)
            .map(|bytes| DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).unwrap());
        prop_assert!(theirs.is_ok(), "{text}: {theirs:?}");
        prop_assert!(ours.is_ok(), "{text}: {ours:?}");
        let (theirs, ours) = (theirs.unwrap(), ours.unwrap());
        // Compared as values: the order of a map's entries inside an `Any` is free.
        let shown = |message: &DynamicMessage| shared().render(
            &Any { type_url: format!("type.googleapis.com/{}", ROOTS[root]), value: message.encode_to_vec() });
        prop_assert_eq!(shown(&theirs), shown(&ours));
    }
}

const ROOTS: [&str; 5] = [
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.listener.v3.Listener",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
];

/// Writes valid documents, guided by a list of choices.
struct Author {
    choices: std::vec::IntoIter<u8>,
}

impl Author {
    fn choose(&mut self, options: usize) -> usize {
        usize::from(self.choices.next().unwrap_or(0)) % options.max(1)
    }

    fn object(&mut self, descriptor: &MessageDescriptor, depth: usize) -> Tree {
        let mut object = Map::new();
        let mut chosen = Vec::new();
        let fields: Vec<_> = descriptor.fields().collect();
        for _ in 0..=self.choose(6) {
            if fields.is_empty() || depth == 0 || self.choices.len() == 0 {
                break;
            }
            let field = &fields[self.choose(fields.len())];
            let taken = field
                .containing_oneof()
                .is_some_and(|choice| chosen.contains(&choice.full_name().to_owned()));
            if taken || object.contains_key(field.name()) || object.contains_key(field.json_name()) {
                continue;
            }
            chosen.extend(field.containing_oneof().map(|choice| choice.full_name().to_owned()));
            let key = if self.choose(2) == 0 { field.name() } else { field.json_name() };
            let value = self.field(field, depth - 1);
            object.insert(key.to_owned(), value);
        }
        Tree::Object(object)
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Tree {
        let kind = field.kind();
        if field.is_map() {
            let entry = kind.as_message().unwrap();
            let key = if entry.map_entry_key_field().kind() == Kind::String { "a key" } else { "7" };
            return json!({ key: self.single(&entry.map_entry_value_field().kind(), depth) });
        }
        if field.is_list() {
            return (0..=self.choose(3)).map(|_| self.single(&kind, depth)).collect();
        }
        self.single(&kind, depth)
    }

    fn single(&mut self, kind: &Kind, depth: usize) -> Tree {
        let choice = self.choose(3);
        match kind {
            Kind::Message(descriptor) => self.message(descriptor, depth),
            Kind::Enum(descriptor) if descriptor.full_name() == "google.protobuf.NullValue" => Tree::Null,
            Kind::Enum(descriptor) => {
                let values: Vec<_> = descriptor.values().collect();
                let value = &values[self.choose(values.len())];
                if choice == 0 { json!(value.number()) } else { json!(value.name()) }
            }
            Kind::Bool => json!(choice == 0),
            Kind::String => json!(["", "text", "ünï\n"][choice]),
            Kind::Bytes => json!(["", "YWJj", "YQ=="][choice]),
            Kind::Double | Kind::Float => [json!(0.5), json!("1.25"), json!("Infinity")][choice].clone(),
            _ => [json!(0), json!(77), json!("12")][choice].clone(),
        }
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> Tree {
        let choice = self.choose(3);
        match descriptor.full_name().strip_prefix("google.protobuf.") {
            None | Some("Empty") => self.object(descriptor, depth),
            Some("Any") => self.any(descriptor, depth),
            Some("Duration") => json!(["0s", "1.5s", "-0.000000001s"][choice]),
            Some("Timestamp") => {
                json!(["1970-01-01T00:00:00Z", "2026-02-28T23:59:59.5Z", "2026-01-01T00:00:00+01:00"][choice])
            }
            Some("Struct") => json!({"a": [1, null, {"b": "c"}], "d": true}),
            Some("ListValue") => json!([1, "x"]),
            Some("Value") => [Tree::Null, json!(1.5), json!({"x": []})][choice].clone(),
            Some(_) => {
                let kind = descriptor.get_field_by_name("value").unwrap().kind();
                self.single(&kind, depth)
            }
        }
    }

    fn any(&mut self, descriptor: &MessageDescriptor, depth: usize) -> Tree {
        let names = [
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "envoy.extensions.filters.http.rbac.v3.RBAC",
            "google.protobuf.Duration",
        ];
        let name = names[self.choose(names.len())];
        let inner = descriptor.parent_pool().get_message_by_name(name).unwrap();
        let mut object = match self.message(&inner, depth.saturating_sub(1)) {
            Tree::Object(object) => object,
            value => Map::from_iter([("value".to_owned(), value)]),
        };
        object.insert("@type".to_owned(), json!(format!("type.googleapis.com/{name}")));
        Tree::Object(object)
    }
}
