use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use super::*;

/// Runs with a driver and without: both keep the same time.
async fn both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    test().await;
    let set = tokio::task::LocalSet::new();
    let driven = async {
        let driver = tokio::task::spawn_local(drive());
        tokio::task::yield_now().await;
        test().await;
        driver.abort();
        let _ = driver.await;
    };
    set.run_until(driven).await;
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn ends_what_waits_for_too_long() {
    both(|| async {
        let start = Instant::now();
        assert_eq!(within(Some(3 * SECOND), std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(start.elapsed(), 3 * SECOND);
        assert_eq!(until(Some(start + 4 * SECOND), std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(start.elapsed(), 4 * SECOND);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_ends_in_time_is_not_touched() {
    both(|| async {
        let sleep = pin!(tokio::time::sleep(SECOND));
        assert_eq!(within(Some(2 * SECOND), sleep).await, Ok(()));
        assert_eq!(within(Some(Duration::ZERO), std::future::ready(7)).await, Ok(7));
        assert_eq!(within(Some(Duration::MAX), pin!(tokio::time::sleep(SECOND))).await, Ok(()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_shorter_bound_that_comes_later_ends_first() {
    both(|| async {
        let start = Instant::now();
        let long = within(Some(60 * SECOND), std::future::pending::<()>());
        let short = async {
            tokio::time::sleep(SECOND).await;
            within(Some(2 * SECOND), std::future::pending::<()>()).await
        };
        tokio::select! {
            _ = long => panic!("the long one ended first"),
            ended = short => assert_eq!(ended, Err(Elapsed)),
        }
        assert_eq!(start.elapsed(), 3 * SECOND);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_one_of_many_ends_at_its_own_time() {
    both(|| async {
        let start = Instant::now();
        let ended = Rc::new(Cell::new(0_u32));
        // More durations than there are queues, several of each, begun at different times, and every fifth given up.
        let all = (0..200_u64).map(|number| {
            let ended = ended.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(number % 7)).await;
                let length = Duration::from_millis(10 + number % 40);
                let begun = Instant::now();
                let mut alarm = Alarm::at(begun + length, length);
                if number % 5 == 0 {
                    let _ = tokio::time::timeout(length / 2, alarm.wait()).await;
                    return;
                }
                alarm.wait().await;
                assert_eq!(begun.elapsed(), length, "{number}");
                ended.set(ended.get() + 1);
            }
        });
        futures_util::future::join_all(all).await;
        assert_eq!(ended.get(), 160);
        assert!(start.elapsed() < SECOND);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_counted_from_what_last_happened() {
    both(|| async {
        let start = Instant::now();
        let last = Rc::new(Cell::new(start));
        let busy = async {
            for _ in 0..5 {
                tokio::time::sleep(SECOND).await;
                last.set(Instant::now());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = busy => {}
            () = silence(Some(2 * SECOND), || last.get()) => {}
        }
        assert_eq!(start.elapsed(), 7 * SECOND);
    })
    .await;
}

/// A task that waits itself, and goes with the last that may wake it.
struct Waiting {
    alarm: Mutex<Option<Alarm>>,
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_when_its_place_wakes_another_may_give_up_its_own() {
    both(|| async {
        let mut theirs = Alarm::after(SECOND);
        assert!(theirs.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let task = Arc::new(Waiting { alarm: Mutex::new(Some(theirs)) });
        let gone = Arc::downgrade(&task);
        let mut alarm = Alarm::after(SECOND);
        let waker = Waker::from(task);
        assert!(alarm.poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert!(gone.upgrade().is_some_and(|task| task.alarm.lock().unwrap().is_some()));
        assert!(alarm.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(gone.upgrade().is_none());
        alarm.wait().await;
    })
    .await;
}
