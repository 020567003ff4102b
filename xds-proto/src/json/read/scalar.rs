//! Numbers, booleans, strings, bytes and enum values in the protobuf JSON mapping: 64-bit numbers may be strings, whole floats
//! may stand for integers, bytes are base64 in either alphabet.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{EnumDescriptor, Kind, Value};
use serde_json::Value as Tree;

use super::super::suggest;
use super::Notes;

/// Reads a value of a scalar kind.
pub(super) fn read(kind: &Kind, tree: &Tree, notes: &mut Notes<'_>) -> Option<Value> {
    match kind {
        Kind::Bool => boolean(tree, notes),
        Kind::String => match tree {
            Tree::String(text) => Some(Value::String(text.clone())),
            Tree::Number(_) | Tree::Bool(_) => {
                notes.expected("a string", tree);
                notes.append("; put it in quotes");
                None
            }
            _ => refuse("a string", tree, notes),
        },
        Kind::Bytes => bytes(tree, notes),
        Kind::Double => float(tree, notes).map(Value::F64),
        #[allow(clippy::cast_possible_truncation, reason = "the field is a float; its range was checked")]
        Kind::Float => match float(tree, notes)? {
            value if value.is_finite() && value.abs() > f64::from(f32::MAX) => {
                refuse("a number that fits a float", tree, notes)
            }
            value => Some(Value::F32(value as f32)),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(tree, i32::MIN.into(), i32::MAX.into(), notes)
            .and_then(|value| i32::try_from(value).ok())
            .map(Value::I32),
        Kind::Uint32 | Kind::Fixed32 => integer(tree, 0, u32::MAX.into(), notes)
            .and_then(|value| u32::try_from(value).ok())
            .map(Value::U32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(tree, i64::MIN.into(), i64::MAX.into(), notes)
            .and_then(|value| i64::try_from(value).ok())
            .map(Value::I64),
        Kind::Uint64 | Kind::Fixed64 => integer(tree, 0, u64::MAX.into(), notes)
            .and_then(|value| u64::try_from(value).ok())
            .map(Value::U64),
        // The caller reads these itself.
        Kind::Message(_) | Kind::Enum(_) => None,
    }
}

/// Reads an enum value, by name in any case (as Envoy does) or by number.
pub(super) fn read_enum(descriptor: &EnumDescriptor, tree: &Tree, notes: &mut Notes<'_>) -> Option<Value> {
    let number = match tree {
        Tree::String(name) => descriptor
            .get_value_by_name(name)
            .or_else(|| descriptor.values().find(|value| value.name().eq_ignore_ascii_case(name)))
            .map(|value| value.number()),
        Tree::Number(number) => number
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .filter(|number| descriptor.get_value(*number).is_some()),
        // The only value of `google.protobuf.NullValue`.
        Tree::Null if descriptor.full_name() == "google.protobuf.NullValue" => Some(0),
        other => return refuse("the name of an enum value", other, notes),
    };
    if number.is_none() {
        notes.add(suggest::unknown_value(
            descriptor,
            &tree.as_str().map_or_else(|| tree.to_string(), str::to_owned),
        ));
    }
    number.map(Value::EnumNumber)
}

fn boolean(tree: &Tree, notes: &mut Notes<'_>) -> Option<Value> {
    if let Tree::Bool(value) = tree {
        return Some(Value::Bool(*value));
    }
    notes.expected("true or false", tree);
    match tree.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("true" | "false") => notes.append("; leave the quotes out"),
        Some("yes" | "no" | "on" | "off") => notes.append(", which is a word in YAML 1.2"),
        _ => {}
    }
    None
}

fn bytes(tree: &Tree, notes: &mut Notes<'_>) -> Option<Value> {
    let Tree::String(text) = tree else {
        return refuse("bytes as a base64 string", tree, notes);
    };
    let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
    match decoded {
        Ok(bytes) => Some(Value::Bytes(bytes.into())),
        Err(error) => {
            notes.add(format!("expected bytes as base64: {error}"));
            None
        }
    }
}

/// A whole number in a range, which also a string or a float without fraction may give.
fn integer(tree: &Tree, least: i128, greatest: i128, notes: &mut Notes<'_>) -> Option<i128> {
    let value = match tree {
        Tree::Number(number) => number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from))
            .or_else(|| number.as_f64().and_then(whole)),
        Tree::String(text) => whole_in(text),
        _ => None,
    };
    match value {
        Some(value) if (least..=greatest).contains(&value) => Some(value),
        Some(_) => refuse(&format!("a whole number from {least} to {greatest}"), tree, notes),
        None => refuse("a whole number", tree, notes),
    }
}

fn whole_in(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    // A leading zero means octal to some readers and nothing to others.
    let ambiguous =
        digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    if ambiguous || !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    text.parse::<i128>().ok().or_else(|| text.parse::<f64>().ok().and_then(whole))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a float without fraction; what is out of range saturates and is refused"
)]
fn whole(value: f64) -> Option<i128> {
    (value.is_finite() && value.fract() == 0.0).then_some(value as i128)
}

fn float(tree: &Tree, notes: &mut Notes<'_>) -> Option<f64> {
    let value = match tree {
        Tree::Number(number) => number.as_f64(),
        Tree::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            digits if digits.trim_start_matches('-').starts_with(|first: char| first.is_ascii_digit()) => {
                digits.parse().ok().filter(|value: &f64| value.is_finite())
            }
            _ => None,
        },
        _ => None,
    };
    value.or_else(|| refuse("a number", tree, notes))
}

fn refuse<T>(expected: &str, tree: &Tree, notes: &mut Notes<'_>) -> Option<T> {
    notes.expected(expected, tree);
    None
}

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
