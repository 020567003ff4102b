//! One encoding for one content.
//!
//! Protobuf maps have no order on the wire, and prost writes them in the order of a hasher that is seeded anew for every
//! map. A resource's version is the hash of its bytes, so that order has to be fixed: the entries of the maps that this
//! room fills with more than one entry (the `Struct` under `filter_metadata`) are sorted in place after encoding, which
//! changes no length.

use std::ops::Range;

use prost::Message;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::{ResourceType, content_version, to_any};

use crate::snapshot::Resource;

/// Encodes a resource in its one order and derives its version.
pub(super) fn resource<M: Message>(kind: ResourceType, message: &M) -> Resource {
    let mut body = message.encode_to_vec();
    for path in map_paths(kind) {
        sort_entries(&mut body, path);
    }
    Resource { version: content_version(&body).into(), body: body.into() }
}

/// Wraps a message into an `Any`, the entries of the maps that the paths lead to in their one order.
pub(super) fn any<M: Message + prost::Name>(message: &M, maps: &[&[u64]]) -> Any {
    let mut any = to_any(message);
    maps.iter().for_each(|path| sort_entries(&mut any.value, path));
    any
}

/// The field numbers that lead from a resource to its maps, inner ones first: the fields of its `filter_metadata` structs, and
/// `filter_metadata` itself where it has several entries.
fn map_paths(kind: ResourceType) -> &'static [&'static [u64]] {
    match kind {
        // metadata · filter_metadata · (entry) value · fields
        ResourceType::Cluster => &[&[25, 1, 2, 1]],
        // endpoints · lb_endpoints · metadata · …
        ResourceType::Endpoint => &[&[2, 2, 3, 1, 2, 1], &[2, 2, 3, 1]],
        // default_filter_chain · filters · typed_config · (Any) value · (HCM) route_config · virtual_hosts · …
        ResourceType::Listener => &[&[25, 3, 4, 2, 4, 2, 3, 4, 1, 2, 1]],
        // virtual_hosts · routes · metadata · …
        ResourceType::Route => &[&[2, 3, 4, 1, 2, 1]],
        ResourceType::Secret => &[],
    }
}

/// Sorts the entries of the repeated field at the end of `path`, wherever the path leads.
fn sort_entries(body: &mut [u8], path: &[u64]) {
    let Some((&field, rest)) = path.split_first() else { return };
    let found: Vec<Field> = fields(body).into_iter().filter(|candidate| candidate.number == field).collect();
    if !rest.is_empty() {
        for entry in found {
            sort_entries(&mut body[entry.payload], rest);
        }
        return;
    }
    let (Some(first), Some(last)) = (found.first(), found.last()) else { return };
    let whole = first.whole.start..last.whole.end;
    let mut entries: Vec<Vec<u8>> = found.iter().map(|entry| body[entry.whole.clone()].to_vec()).collect();
    // prost writes a map's entries side by side; anything else here would not be a map.
    if entries.iter().map(Vec::len).sum::<usize>() == whole.len() {
        entries.sort_unstable();
        body[whole].copy_from_slice(&entries.concat());
    }
}

/// One length-delimited field of a message.
struct Field {
    number: u64,
    whole: Range<usize>,
    payload: Range<usize>,
}

/// The length-delimited fields of a message, in order; ends early at bytes that are not a message.
fn fields(body: &[u8]) -> Vec<Field> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let start = at;
        let Some(key) = varint(body, &mut at) else { break };
        match key & 7 {
            0 if varint(body, &mut at).is_some() => {}
            1 => at += 8,
            2 => {
                let Some(length) = varint(body, &mut at).and_then(|length| usize::try_from(length).ok())
                else {
                    break;
                };
                let Some(end) = at.checked_add(length).filter(|end| *end <= body.len()) else { break };
                found.push(Field { number: key >> 3, whole: start..end, payload: at..end });
                at = end;
            }
            5 => at += 4,
            _ => break,
        }
    }
    found
}

fn varint(body: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *body.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use sidegate_xds::envoy::config::cluster::v3::Cluster;

    use super::super::wire;
    use super::*;

    #[test]
    fn equal_content_has_equal_bytes() {
        let make = || Cluster {
            name: "one".to_owned(),
            metadata: wire::metadata([
                ("kind", "Service".to_owned()),
                ("namespace", "shop".to_owned()),
                ("name", "web".to_owned()),
                ("port", "80".to_owned()),
            ]),
            ..Cluster::default()
        };
        let first = resource(ResourceType::Cluster, &make());
        for _ in 0..32 {
            assert_eq!(resource(ResourceType::Cluster, &make()), first);
        }
        assert_eq!(Cluster::decode(first.body).unwrap(), make());
    }
}
