//! Replays the seeds of `fuzz/seeds`, and mutations of them from a fixed random sequence, through the checks.

use std::path::PathBuf;

use http::Method;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// What a grammar turns on: put in at random places.
const WORDS: [&[u8]; 34] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\0",
    b"\x7f",
    b"\xff",
    b"0",
    b"1",
    b"f",
    b"%2e",
    b"%2F",
    b"%00",
    b"..",
    b"/",
    b"//",
    b"\\",
    b"?",
    b"#",
    b"*",
    b"@",
    b"chunked",
    b"Host: a\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: x, close\r\n",
    b"http://a",
    b"HTTP/1.0",
    b"CONNECT ",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn mutate(bytes: &mut Vec<u8>, random: &mut SmallRng) {
    let at = random.random_range(0..=bytes.len());
    match random.random_range(0..5) {
        0 => drop(bytes.splice(at..at, WORDS.choose(random).unwrap().iter().copied())),
        1 if at < bytes.len() => bytes[at] = random.random(),
        2 => drop(bytes.drain(at..bytes.len().min(at + random.random_range(1..9)))),
        3 => {
            let end = bytes.len().min(at + random.random_range(1..40));
            let copy = bytes[at..end].to_vec();
            let to = random.random_range(0..=bytes.len());
            bytes.splice(to..to, copy);
        }
        _ => bytes.truncate(at),
    }
}

/// The seeds, and so many mutations of them; a part of those where the environment says so, for who runs this again and again.
pub(super) fn replay(target: &str, check: fn(&[u8]), rounds: usize) {
    let part = std::env::var("SIDEGATE_REPLAY_PART").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let rounds = rounds / part;
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| check(seed));
    let mut random = SmallRng::seed_from_u64(20_260_101);
    for _ in 0..rounds {
        let mut bytes = seeds.choose(&mut random).unwrap().clone();
        for _ in 0..random.random_range(1..5) {
            mutate(&mut bytes, &mut random);
        }
        check(&bytes);
    }
}

#[test]
fn seeds_mean_the_same_wherever_they_are_cut() {
    for seed in seeds("http1_request") {
        let whole = super::requests([&seed[..]]);
        for cut in 0..seed.len() {
            assert_eq!(whole, super::requests([&seed[..cut], &seed[cut..]]), "cut at {cut}");
        }
    }
    for seed in seeds("http1_response") {
        let whole = super::responses([&seed[..]], &Method::GET);
        for cut in 0..seed.len() {
            assert_eq!(whole, super::responses([&seed[..cut], &seed[cut..]], &Method::GET), "cut at {cut}");
        }
    }
    for seed in seeds("chunked") {
        let whole = super::content([&seed[..]], &super::LIMITS);
        for cut in 0..seed.len() {
            assert_eq!(whole, super::content([&seed[..cut], &seed[cut..]], &super::LIMITS), "cut at {cut}");
        }
    }
}

#[test]
fn requests_keep_their_promises() {
    replay("http1_request", super::http1_request, 30_000);
}

#[test]
fn what_goes_through_is_one_clean_message_for_each_request() {
    replay("http1_request", super::whole_request, 40_000);
    replay("whole_request", super::whole_request, 40_000);
}

#[test]
fn responses_keep_their_promises() {
    replay("http1_response", super::http1_response, 12_000);
}

#[test]
fn chunks_keep_their_promises() {
    replay("chunked", super::chunked, 40_000);
}

#[test]
fn paths_keep_their_promises() {
    replay("path", super::path, 40_000);
}

#[test]
fn client_hellos_keep_their_promises() {
    replay("client_hello", super::client_hello, 6_000);
}

#[test]
fn proxy_headers_keep_their_promises() {
    replay("proxy_header", super::proxy_header, 40_000);
}
