use std::sync::Mutex;

use super::*;
use crate::compile::tests::fixture::{dns_cluster, resolvable};

/// Answers from a list, one for each question; then failures.
fn scripted(answers: Vec<Option<&'static str>>) -> (Lookup, Arc<Mutex<usize>>) {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let lookup: Lookup = Arc::new(move |_| {
        let mut count = count.lock().unwrap();
        let answer = answers.get(*count).copied().flatten();
        *count += 1;
        Box::pin(async move {
            match answer {
                Some(address) => Ok(vec![address.parse().unwrap()]),
                None => Err(io::Error::other("no such host")),
            }
        })
    });
    (lookup, asked)
}

#[tokio::test(start_paused = true)]
async fn e7_asks_again_and_keeps_the_last_good_answer() {
    let (lookup, asked) = scripted(vec![Some("10.0.0.1"), Some("10.0.0.2"), None]);
    let mut resolver = Resolver::new(lookup, || 0.0);
    resolver.follow(resolvable(&dns_cluster("a", "web", "7s")));
    let mut addresses = Vec::new();
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        addresses.push(resolver.answers().await.of("web")[0].to_string());
    }
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "10.0.0.2"]);
    assert_eq!(start.elapsed().as_secs(), 14);
    assert_eq!(*asked.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn e7_a_name_that_cannot_be_resolved_is_asked_again_soon_and_says_nothing() {
    let (lookup, _) = scripted(vec![None, None, Some("10.0.0.1")]);
    let mut resolver = Resolver::new(lookup, || 0.0);
    let start = tokio::time::Instant::now();
    resolver.follow(resolvable(&dns_cluster("a", "web", "60s")));
    assert_eq!(resolver.answers().await.of("web").len(), 1);
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn e7_follows_the_clusters_that_are_there() {
    let (lookup, asked) = scripted(vec![Some("10.0.0.1"); 100]);
    let mut resolver = Resolver::new(lookup, || 0.0);
    let clusters = resolvable(&dns_cluster("a", "web", "5s"));
    resolver.follow(clusters.clone());
    resolver.answers().await;
    resolver.follow(clusters);
    assert_eq!(resolver.tasks.len(), 1);
    tokio::task::yield_now().await;
    assert_eq!(*asked.lock().unwrap(), 1, "the same cluster is not asked for anew");
    resolver.follow(resolvable(&dns_cluster("a", "other", "5s")));
    assert!(!resolver.answers().await.of("other").is_empty());
    resolver.follow(Vec::new());
    assert!(resolver.tasks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn e7_an_answer_without_addresses_is_none_and_silence_is_cut() {
    let asked = Arc::new(Mutex::new(0));
    let lookup: Lookup = Arc::new(move |_| {
        let mut count = asked.lock().unwrap();
        *count += 1;
        let number = *count;
        Box::pin(async move {
            match number {
                1 => Ok((1..=1_000_u32).map(|number| std::net::Ipv4Addr::from(number).into()).collect()),
                2 => Ok(Vec::new()),
                3 => std::future::pending().await,
                _ => Ok(vec!["10.0.0.2".parse().unwrap()]),
            }
        })
    });
    let mut resolver = Resolver::new(lookup, || 0.5);
    resolver.follow(resolvable(&dns_cluster("a", "web", "100s")));
    let start = tokio::time::Instant::now();
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = resolver.answers().await;
        answers.push((answer.of("web").len(), start.elapsed().as_millis()));
    }
    // A twentieth longer each: half of the most. After failures soon again, and a lookup has ten seconds.
    assert_eq!(answers, [(1_000, 0), (1_000, 105_000), (1_000, 116_050), (1, 117_100)]);
}
