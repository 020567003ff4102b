//! The renewal by hand and at random, on clocks that only the tests move.

use proptest::prelude::*;

use super::*;

/// Both clocks, moved together or apart.
struct Clock(Moment);

impl Clock {
    fn new() -> Self {
        Self(Moment { steady: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) })
    }

    fn pass(&mut self, time: Duration) {
        self.0.steady += time;
        self.0.wall += time;
    }

    fn in_(&self, time: Duration) -> SystemTime {
        self.0.wall + time
    }
}

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

/// Waits until there is something to do: what, and after how long.
fn next(renewal: &mut Renewal, clock: &mut Clock) -> (Step, Duration) {
    let mut waited = Duration::ZERO;
    loop {
        match renewal.step(clock.0) {
            Step::Wait(time) => {
                assert!(!time.is_zero() && time <= LONGEST_WAIT);
                clock.pass(time);
                waited += time;
            }
            step => return (step, waited),
        }
        assert!(waited < 100 * 24 * HOUR, "nothing ever happens");
    }
}

fn issued(clock: &Clock, life: Duration, roll: f64) -> Renewal {
    let mut renewal = Renewal::new(clock.0);
    assert!(matches!(renewal.step(clock.0), Step::Ask));
    renewal.issued(clock.0, clock.in_(life), roll);
    renewal
}

#[test]
fn a_certificate_is_renewed_around_half_of_its_life() {
    for (roll, share) in [(0.0, 0.45), (0.5, 0.5), (1.0, 0.55)] {
        let mut clock = Clock::new();
        let mut renewal = issued(&clock, 24 * HOUR, roll);
        let (step, waited) = next(&mut renewal, &mut clock);
        assert_eq!(step, Step::Ask);
        assert!((waited.as_secs_f64() / (24.0 * 3600.0) - share).abs() < 0.001, "{waited:?} at {roll}");
    }
}

#[test]
fn without_success_it_warns_from_a_third_on_and_more_and_more_often_and_then_it_is_over() {
    let mut clock = Clock::new();
    let mut renewal = issued(&clock, 24 * HOUR, 0.5);
    let (mut warnings, mut attempts, mut pauses) = (Vec::new(), 0, Vec::new());
    loop {
        let (step, waited) = next(&mut renewal, &mut clock);
        match step {
            Step::Ask => {
                attempts += 1;
                pauses.push(waited);
                renewal.failed(clock.0, 1.0);
            }
            Step::Warn(left) => warnings.push(left),
            Step::Expire => break,
            Step::Wait(_) => unreachable!(),
        }
    }
    assert!((7 * HOUR..=8 * HOUR).contains(&warnings[0]), "{warnings:?}");
    assert!(warnings.windows(2).all(|pair| pair[1] <= pair[0] / 2), "{warnings:?}");
    assert!(warnings.len() > 10 && *warnings.last().unwrap() < 30 * SECOND, "{warnings:?}");
    // Seldom at first, often at the end, never idle for longer than the bound.
    assert!((700..4_000).contains(&attempts), "{attempts}");
    assert!(pauses[1..].iter().all(|pause| *pause <= HIGHEST));
    // And it goes on asking afterwards.
    assert_eq!(next(&mut renewal, &mut clock).0, Step::Ask);
    renewal.failed(clock.0, 1.0);
    let (step, waited) = next(&mut renewal, &mut clock);
    assert_eq!(step, Step::Ask);
    assert!(waited <= HIGHEST_WITHOUT);
    renewal.issued(clock.0, clock.in_(HOUR), 0.5);
    assert!(next(&mut renewal, &mut clock).1 > HOUR / 3);
}

#[test]
fn the_end_comes_in_time_while_an_answer_is_awaited() {
    let mut clock = Clock::new();
    let mut renewal = issued(&clock, 4 * SECOND, 0.0);
    assert_eq!(next(&mut renewal, &mut clock).0, Step::Ask);
    let (mut step, mut waited) = next(&mut renewal, &mut clock);
    let mut all = waited;
    while matches!(step, Step::Warn(_)) {
        (step, waited) = next(&mut renewal, &mut clock);
        all += waited;
    }
    assert_eq!(step, Step::Expire);
    assert!(all <= 3 * SECOND, "{all:?}");
    // Nothing is asked twice at once.
    assert!(matches!(renewal.step(clock.0), Step::Wait(_)));
    renewal.failed(clock.0, 0.0);
    assert_eq!(next(&mut renewal, &mut clock).0, Step::Ask);
}

#[test]
fn another_root_that_signs_is_followed_soon_and_without_haste_when_it_does_not_help() {
    let mut clock = Clock::new();
    let mut renewal = issued(&clock, 24 * HOUR, 0.5);
    let mut last = Duration::ZERO;
    for round in 0..12 {
        renewal.misplaced(clock.0, 0.9);
        let (step, waited) = next(&mut renewal, &mut clock);
        assert_eq!(step, Step::Ask);
        match round {
            0 => assert!(waited <= SOON),
            _ => assert!(waited <= HIGHEST && waited >= last.min(HIGHEST / 2), "{round}: {waited:?}"),
        }
        last = waited;
        renewal.issued(clock.0, clock.in_(24 * HOUR), 0.5);
    }
    renewal.placed();
    assert!(next(&mut renewal, &mut clock).1 > 10 * HOUR);
}

#[test]
fn being_told_again_does_not_put_off_a_renewal_past_the_end() {
    let mut clock = Clock::new();
    let mut renewal = issued(&clock, Duration::from_secs(10), 0.5);
    let end = clock.in_(Duration::from_secs(10));
    renewal.misplaced = 5;
    loop {
        renewal.misplaced(clock.0, 1.0);
        match renewal.step(clock.0) {
            Step::Ask => break,
            Step::Wait(_) => {
                clock.0.steady += Duration::from_millis(100);
                clock.0.wall += Duration::from_millis(100);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(clock.0.wall + Duration::from_secs(7) <= end, "asked in good time");
}

#[test]
fn a_clock_that_is_set_is_noticed() {
    // Forward past the end: over at once, not when the time has passed on the other clock.
    let mut clock = Clock::new();
    let mut renewal = issued(&clock, 24 * HOUR, 0.5);
    clock.0.wall += 25 * HOUR;
    assert_eq!(renewal.step(clock.0), Step::Expire);
    // Back: retries go on.
    assert_eq!(next(&mut renewal, &mut clock).0, Step::Ask);
    renewal.failed(clock.0, 0.5);
    clock.0.wall -= 400 * 24 * HOUR;
    let (step, waited) = next(&mut renewal, &mut clock);
    assert_eq!(step, Step::Ask);
    assert!(waited <= HIGHEST_WITHOUT);
}

#[test]
fn roots_that_come_and_go_are_not_followed_in_haste() {
    let mut clock = Clock::new();
    let mut renewal = Renewal::new(clock.0);
    for _ in 0..3 {
        assert_eq!(next(&mut renewal, &mut clock).0, Step::Ask);
        renewal.issued(clock.0, clock.in_(24 * HOUR), 0.5);
        // At once, by the dice; but a certificate has just come.
        renewal.misplaced(clock.0, 0.0);
        renewal.placed();
        let (step, waited) = next(&mut renewal, &mut clock);
        assert_eq!(step, Step::Ask);
        assert!((SHORTEST_PAUSE..=SOON).contains(&waited), "{waited:?}");
        renewal.failed(clock.0, 0.0);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Issue(u64, f64),
    Fail(f64),
    Misplaced(f64),
    Placed,
    Set(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1_u64..7_200_000).prop_map(Event::Pass),
        (1_u64..5_000).prop_map(Event::Pass),
        (1_u64..100_000, 0.0..1.0).prop_map(|(life, roll)| Event::Issue(life, roll)),
        (0.0..1.0).prop_map(Event::Fail),
        (0.0..1.0).prop_map(Event::Misplaced),
        Just(Event::Placed),
        (-100_000_i64..100_000).prop_map(Event::Set),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    /// Whatever happens: one question at a time, never in haste, and nothing is in force past its end.
    #[test]
    fn whatever_happens(events in proptest::collection::vec(event(), 1..120)) {
        let mut clock = Clock::new();
        let mut renewal = Renewal::new(clock.0);
        // The model: the certificate in force, whether a question is open, when the last one was put.
        let mut until: Option<SystemTime> = None;
        let mut open = false;
        let mut answered: Option<Instant> = None;
        for event in events {
            match event {
                Event::Pass(millis) => clock.pass(Duration::from_millis(millis)),
                Event::Set(seconds) if seconds < 0 => clock.0.wall -= SECOND * seconds.unsigned_abs() as u32,
                Event::Set(seconds) => clock.0.wall += SECOND * seconds as u32,
                Event::Issue(life, roll) if open => {
                    until = Some(clock.in_(SECOND * life as u32));
                    renewal.issued(clock.0, clock.in_(SECOND * life as u32), roll);
                    (open, answered) = (false, Some(clock.0.steady));
                }
                Event::Fail(roll) if open => {
                    renewal.failed(clock.0, roll);
                    (open, answered) = (false, Some(clock.0.steady));
                }
                Event::Misplaced(roll) if !open => renewal.misplaced(clock.0, roll),
                Event::Placed => renewal.placed(),
                _ => {}
            }
            // Everything that is due now.
            for turn in 0.. {
                prop_assert!(turn < 70, "it never rests");
                match renewal.step(clock.0) {
                    Step::Ask => {
                        prop_assert!(!open, "asked twice");
                        open = true;
                        if let Some(at) = answered {
                            prop_assert!(clock.0.steady - at >= LOWEST, "in haste");
                        }
                    }
                    Step::Expire => {
                        prop_assert!(until.is_some_and(|until| until <= clock.0.wall));
                        until = None;
                    }
                    Step::Warn(left) => prop_assert!(!left.is_zero() && until.is_some()),
                    Step::Wait(time) => {
                        prop_assert!(time <= LONGEST_WAIT && !time.is_zero());
                        prop_assert!(until.is_none_or(|until| until > clock.0.wall), "past its end");
                        // It does not sleep over the end.
                        let end = until.map(|until| until.duration_since(clock.0.wall).unwrap());
                        prop_assert!(end.is_none_or(|end| time <= end.max(SHORTEST_WAIT)));
                        break;
                    }
                }
            }
        }
    }
}
