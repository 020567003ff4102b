//! Tree → message, by the descriptors, noting every mistake on the way.
//!
//! The protobuf JSON mapping as Envoy uses it: both spellings of field names, enum values in any case, `null` as absent.
//! A mistake never stops the walk; what it touches is left out, and whoever asked looks at the mistakes before the message.

mod scalar;
mod well_known;

use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage, Value,
};
use serde_json::{Map, Value as Tree};

use super::problem::{Found, Step};
use super::suggest;

type Object = Map<String, Tree>;

/// Reads one message. It is worth something only if nothing was added to `found`.
pub(super) fn read(
    pool: &DescriptorPool,
    descriptor: &MessageDescriptor,
    tree: &Tree,
    found: &mut Vec<Found>,
) -> DynamicMessage {
    let mut reader = Reader { pool, notes: Notes { steps: Vec::new(), found } };
    match reader.message(descriptor, tree) {
        Some(Value::Message(message)) => message,
        _ => DynamicMessage::new(descriptor.clone()),
    }
}

struct Reader<'a> {
    pool: &'a DescriptorPool,
    notes: Notes<'a>,
}

impl Reader<'_> {
    /// A message in its JSON form, which for the well-known types is not an object.
    fn message(&mut self, descriptor: &MessageDescriptor, tree: &Tree) -> Option<Value> {
        if descriptor.full_name() == ANY {
            return self.any(descriptor, tree);
        }
        if let Some(form) = well_known::form(descriptor.full_name()) {
            return well_known::read(form, descriptor, tree, &mut self.notes);
        }
        let object = self.object(descriptor.full_name(), tree)?;
        Some(Value::Message(self.fields(descriptor, object, None)))
    }

    fn object<'tree>(&mut self, what: &str, tree: &'tree Tree) -> Option<&'tree Object> {
        if let Tree::Object(object) = tree {
            return Some(object);
        }
        self.notes.expected(&format!("an object ({what})"), tree);
        None
    }

    /// The fields of an object, except for the key that is `not_a_field` (an `Any`'s `@type`).
    fn fields(
        &mut self,
        descriptor: &MessageDescriptor,
        object: &Object,
        not_a_field: Option<&str>,
    ) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut spelled: Vec<(FieldDescriptor, &str)> = Vec::with_capacity(object.len());
        for (key, tree) in object {
            if not_a_field == Some(key.as_str()) {
                continue;
            }
            self.notes.steps.push(Step::Key(key.clone()));
            match descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key)) {
                None => self.notes.add(suggest::unknown_field(descriptor, key)),
                Some(field) if tree.is_null() && !takes_null(&field) => {}
                Some(field) => {
                    self.exclusive(&field, key, &spelled);
                    if let Some(value) = self.field(&field, tree) {
                        message.set_field(&field, value);
                    }
                    spelled.push((field, key));
                }
            }
            self.notes.steps.pop();
        }
        message
    }

    /// Notes a field that excludes one which was set before it.
    fn exclusive(&mut self, field: &FieldDescriptor, key: &str, spelled: &[(FieldDescriptor, &str)]) {
        let choice = field.containing_oneof();
        for (other, other_key) in spelled {
            if other.number() == field.number() {
                self.notes.add(format!("is the same field as `{other_key}`: keep one of them"));
            } else if choice.is_some() && other.containing_oneof() == choice {
                self.notes.add(format!("`{other_key}` and `{key}` exclude each other: keep one of them"));
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor, tree: &Tree) -> Option<Value> {
        if field.is_map() {
            return self.map(field, tree);
        }
        if field.cardinality() == Cardinality::Repeated {
            return self.list(field, tree);
        }
        let kind = field.kind();
        let is_empty_any = tree.as_object().is_some_and(Map::is_empty)
            && kind.as_message().is_some_and(|message| message.full_name() == ANY);
        if is_empty_any { None } else { self.single(&kind, tree) }
    }

    fn list(&mut self, field: &FieldDescriptor, tree: &Tree) -> Option<Value> {
        let kind = field.kind();
        let Tree::Array(elements) = tree else {
            let hint = if tree.is_object() {
                "; put `- ` before its first key to make it a list of one"
            } else {
                ""
            };
            let found = describe(tree);
            self.notes.add(format!("expected a list of {}, found {found}{hint}", plural(&kind)));
            return None;
        };
        let mut values = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            self.notes.steps.push(Step::Index(index));
            values.extend(self.single(&kind, element));
            self.notes.steps.pop();
        }
        Some(Value::List(values))
    }

    fn map(&mut self, field: &FieldDescriptor, tree: &Tree) -> Option<Value> {
        let entry = field.kind();
        let entry = entry.as_message()?;
        let (key_kind, value_kind) =
            (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let object = self.object("a map", tree)?;
        let mut values = std::collections::HashMap::with_capacity(object.len());
        for (key, tree) in object {
            self.notes.steps.push(Step::Key(key.clone()));
            let map_key = self.map_key(&key_kind, key);
            let value = self.single(&value_kind, tree);
            if let (Some(map_key), Some(value)) = (map_key, value) {
                values.insert(map_key, value);
            }
            self.notes.steps.pop();
        }
        Some(Value::Map(values))
    }

    fn map_key(&mut self, kind: &Kind, key: &str) -> Option<MapKey> {
        let tree = match (kind, key) {
            (Kind::Bool, "true") => Tree::Bool(true),
            (Kind::Bool, "false") => Tree::Bool(false),
            _ => Tree::String(key.to_owned()),
        };
        scalar::read(kind, &tree, &mut self.notes)?.into_map_key()
    }

    fn single(&mut self, kind: &Kind, tree: &Tree) -> Option<Value> {
        match kind {
            Kind::Message(descriptor) => self.message(descriptor, tree),
            Kind::Enum(descriptor) => scalar::read_enum(descriptor, tree, &mut self.notes),
            scalar => scalar::read(scalar, tree, &mut self.notes),
        }
    }

    /// `{"@type": "type.googleapis.com/NAME", …the fields of NAME…}`.
    fn any(&mut self, descriptor: &MessageDescriptor, tree: &Tree) -> Option<Value> {
        let object = self.object("of the type that its `@type` names", tree)?;
        if object.is_empty() {
            return Some(Value::Message(DynamicMessage::new(descriptor.clone())));
        }
        let inner = self.type_of(object)?;
        let payload = if inner.full_name() == ANY || well_known::form(inner.full_name()).is_some() {
            self.any_value(&inner, object)?
        } else if TYPED_STRUCTS.contains(&inner.full_name()) {
            self.typed_struct(&inner, object)?
        } else {
            self.fields(&inner, object, Some(TYPE_KEY))
        };
        let mut any = DynamicMessage::new(descriptor.clone());
        let type_url = format!("{TYPE_URL_PREFIX}{}", payload.descriptor().full_name());
        any.set_field_by_name("type_url", Value::String(type_url));
        any.set_field_by_name("value", Value::Bytes(payload.encode_to_vec().into()));
        Some(Value::Message(any))
    }

    /// The message type that an object's `@type` names.
    fn type_of(&mut self, object: &Object) -> Option<MessageDescriptor> {
        let Some(tree) = object.get(TYPE_KEY) else {
            self.notes.add(format!(
                "has no `{TYPE_KEY}`: add `\"{TYPE_KEY}\": {TYPE_URL_PREFIX}…` with the message's name"
            ));
            return None;
        };
        self.notes.steps.push(Step::Key(TYPE_KEY.to_owned()));
        let inner = match tree {
            Tree::String(url) => self.type_named(url),
            other => {
                self.notes.expected("a string", other);
                None
            }
        };
        self.notes.steps.pop();
        inner
    }

    fn type_named(&mut self, url: &str) -> Option<MessageDescriptor> {
        let Some((_, name)) = url.rsplit_once('/') else {
            self.notes.add(format!("{url:?} is not a type URL: write {TYPE_URL_PREFIX}{url}"));
            return None;
        };
        let inner = self.pool.get_message_by_name(name);
        if inner.is_none() {
            self.notes.add(suggest::unknown_type(self.pool, name));
        }
        inner
    }

    /// Types whose JSON form is not an object stand under `value` in an `Any`.
    fn any_value(&mut self, inner: &MessageDescriptor, object: &Object) -> Option<DynamicMessage> {
        for key in object.keys().filter(|key| !["value", TYPE_KEY].contains(&key.as_str())) {
            self.notes.steps.push(Step::Key(key.clone()));
            self.notes.add(format!("unknown field; a {} stands under `value`", inner.full_name()));
            self.notes.steps.pop();
        }
        let Some(tree) = object.get("value") else {
            self.notes.add(format!("has no `value`: a {} stands there", inner.full_name()));
            return None;
        };
        self.notes.steps.push(Step::Key("value".to_owned()));
        let value = self.message(inner, tree);
        self.notes.steps.pop();
        match value {
            Some(Value::Message(message)) => Some(message),
            _ => None,
        }
    }

    /// A `TypedStruct` holds another message's JSON form. If that type is known it is read as such (which Envoy does later, when
    /// it looks for the extension), otherwise it stays as it is.
    fn typed_struct(&mut self, outer: &MessageDescriptor, object: &Object) -> Option<DynamicMessage> {
        let url = object
            .get("type_url")
            .or_else(|| object.get("typeUrl"))
            .and_then(Tree::as_str)
            .unwrap_or_default();
        let inner = url.rsplit_once('/').and_then(|(_, name)| self.pool.get_message_by_name(name));
        let (Some(inner), Some(value)) = (inner, object.get("value")) else {
            return Some(self.fields(outer, object, Some(TYPE_KEY)));
        };
        for key in
            object.keys().filter(|key| ![TYPE_KEY, "type_url", "typeUrl", "value"].contains(&key.as_str()))
        {
            self.notes.steps.push(Step::Key(key.clone()));
            self.notes.add(suggest::unknown_field(outer, key));
            self.notes.steps.pop();
        }
        self.notes.steps.push(Step::Key("value".to_owned()));
        let message = self.object(inner.full_name(), value).map(|object| self.fields(&inner, object, None));
        self.notes.steps.pop();
        message
    }
}

/// Whether `null` is a value of the field, not its absence.
fn takes_null(field: &FieldDescriptor) -> bool {
    let is_nullable = match field.kind() {
        Kind::Message(message) => message.full_name() == "google.protobuf.Value",
        Kind::Enum(descriptor) => descriptor.full_name() == "google.protobuf.NullValue",
        _ => false,
    };
    is_nullable && !field.is_list() && !field.is_map()
}

/// Where the walk is, and the mistakes so far.
struct Notes<'a> {
    steps: Vec<Step>,
    found: &'a mut Vec<Found>,
}

impl Notes<'_> {
    fn add(&mut self, message: String) {
        if self.found.len() < MAX_FOUND {
            self.found.push(Found { steps: self.steps.clone(), passed_over: 0, message });
        }
    }

    /// Adds a hint to the newest mistake.
    fn append(&mut self, hint: &str) {
        if let Some(newest) = self.found.last_mut() {
            newest.message.push_str(hint);
        }
    }

    fn expected(&mut self, what: &str, tree: &Tree) {
        self.add(format!("expected {what}, found {}", describe(tree)));
    }
}

/// A value for an error text.
fn describe(tree: &Tree) -> String {
    match tree {
        Tree::Null => "null".to_owned(),
        Tree::Bool(value) => value.to_string(),
        Tree::Number(value) => format!("the number {value}"),
        Tree::String(value) if value.chars().count() > MAX_QUOTED => {
            format!("the string {:?}…", value.chars().take(MAX_QUOTED).collect::<String>())
        }
        Tree::String(value) => format!("the string {value:?}"),
        Tree::Array(_) => "a list".to_owned(),
        Tree::Object(_) => "an object".to_owned(),
    }
}

fn plural(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => format!("objects ({})", message.full_name()),
        Kind::Enum(_) => "enum values".to_owned(),
        Kind::String => "strings".to_owned(),
        Kind::Bytes => "base64 strings".to_owned(),
        Kind::Bool => "booleans".to_owned(),
        _ => "numbers".to_owned(),
    }
}

const ANY: &str = "google.protobuf.Any";
const TYPED_STRUCTS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];
const TYPE_KEY: &str = "@type";
const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// Mistakes beyond these are neither kept nor counted.
const MAX_FOUND: usize = 1_000;

/// How much of a string an error text shows.
const MAX_QUOTED: usize = 60;
