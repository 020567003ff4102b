//! Runs the filter chain around an exchange, and finds the answers to what filters ask.
//!
//! What waits is boxed: a chain that asks nothing runs through at once.

use std::sync::Arc;

use super::{Exchange, Reply, jwks};
use crate::error::Reason;
use crate::filter::{self, Answer, Attributes, Context, Question, Verdict};
use crate::message::Request;
use crate::route::Route;
use crate::snapshot::Http;

/// A chain that is being run.
#[derive(Default)]
struct Walk {
    /// The next filter's place in it.
    next: usize,
    attributes: Attributes,
    notes: Vec<String>,
}

impl Exchange<'_> {
    /// Runs the chain; the route is another one afterwards where a filter has changed what routes look at.
    pub(super) async fn run_filters(
        &mut self,
        http: &Http,
        mut route: Arc<Route>,
        request: &mut Request,
    ) -> Result<Arc<Route>, Reply> {
        if http.filters.is_empty() {
            return Ok(route);
        }
        let mut walk = Walk::default();
        let mut asked = self.walk(http, &mut route, request, &mut walk, None)?;
        while let Some(question) = asked {
            let answer = Box::pin(self.ask(http, &question)).await;
            asked = self.walk(http, &mut route, request, &mut walk, Some((question, answer)))?;
        }
        if !walk.notes.is_empty() {
            self.ending.record().detail = Some(walk.notes.join("; "));
        }
        Ok(route)
    }

    /// Runs the chain to its end, or until a filter asks.
    fn walk(
        &mut self,
        http: &Http,
        route: &mut Arc<Route>,
        request: &mut Request,
        walk: &mut Walk,
        mut answered: Option<(Box<Question>, Answer)>,
    ) -> Result<Option<Box<Question>>, Reply> {
        loop {
            let record = self.ending.record();
            let mut context = Context {
                now: record.start,
                connection: &self.downstream.connection,
                direct: self.downstream.direct_source.ip(),
                client: record.peer.ip(),
                head: &mut request.head,
                attributes: &mut walk.attributes,
                recorder: &self.worker.recorder,
                notes: &mut walk.notes,
            };
            let verdict = match answered.take() {
                Some((question, answer)) => filter::resume(*question, answer, &mut context),
                None => filter::on_request(&http.filters, &route.filters, &mut walk.next, &mut context),
            };
            for event in walk.attributes.take_events() {
                self.worker.recorder.filtered(&http.stat_prefix, event);
            }
            match verdict {
                Verdict::Continue if walk.next >= http.filters.len() => return Ok(None),
                Verdict::Continue => {}
                Verdict::Reroute => *route = self.select_route(http, request)?,
                Verdict::Ask(question) => return Ok(Some(question)),
                Verdict::Reply(reply) => {
                    if reply.reason == Reason::RateLimited {
                        self.worker.recorder.rate_limited(&http.stat_prefix);
                    }
                    return Err(Reply::from_filter(reply));
                }
            }
        }
    }

    /// Finds the answer to what a filter asks.
    async fn ask(&mut self, http: &Http, question: &Question) -> Answer {
        match question {
            Question::Keys(waiting) => {
                if let Some(remote) = waiting.remote() {
                    jwks::arrive(self.worker, self.snapshot, &http.stat_prefix, remote).await;
                }
                Answer::Keys
            }
        }
    }
}
