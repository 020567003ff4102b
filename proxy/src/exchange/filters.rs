//! Runs the filter chain around an exchange, and finds the answers to what filters ask.
//!
//! What waits is boxed: a chain that asks nothing runs through at once.

use std::sync::Arc;

use super::call::{Call, call};
use super::peek::{Patience, peek};
use super::{Exchange, Reply, jwks};
use crate::error::Reason;
use crate::filter::ext_authz::{Check, Seen, Trouble, Waiting};
use crate::filter::{self, Answer, Answered, Attributes, Context, Question, Verdict};
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
            let answer = Box::pin(self.ask(http, &question, request, &walk.attributes)).await;
            asked = self.walk(http, &mut route, request, &mut walk, Some((question, answer)))?;
        }
        if !walk.notes.is_empty() {
            self.ending.record().detail = Some(walk.notes.join("; "));
        }
        self.filtered = walk.attributes.take_response_changes();
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
                Verdict::ReplyWith(reply, body) => return Err(Reply::from_filter(reply).body(body)),
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
    async fn ask(
        &mut self,
        http: &Http,
        question: &Question,
        request: &mut Request,
        attributes: &Attributes,
    ) -> Answer {
        match question {
            Question::Keys(waiting) => {
                if let Some(remote) = waiting.remote() {
                    jwks::arrive(self.worker, self.snapshot, &http.stat_prefix, remote).await;
                }
                Answer::Keys
            }
            Question::Check(waiting) => Answer::Check(self.check(http, waiting, request, attributes).await),
        }
    }

    /// Asks an authorization service.
    async fn check(
        &mut self,
        http: &Http,
        waiting: &Waiting,
        request: &mut Request,
        attributes: &Attributes,
    ) -> Result<Answered, Trouble> {
        let record = self.ending.record();
        let (start, time) = (record.start, record.start_wall);
        let seen = match waiting.body_rule() {
            // What goes through a tunnel is not the request's.
            Some(rule) if request.tunnel.is_none() => {
                let deadline = http.timeouts.request.map(|most| start + most);
                let patience = Patience { idle: http.timeouts.stream_idle, deadline };
                peek(&mut request.body, rule, &patience).await?
            }
            _ => Seen { size: request.body.remaining(), ..Seen::default() },
        };
        let connection = &self.downstream.connection;
        let Check { head, body } = waiting.check(&request.head, connection, attributes, seen, time);
        let filter = &waiting.filter;
        let question = Call { head, body, timeout: filter.timeout, most: MOST_ANSWER };
        let cluster = self.snapshot.clusters.get(&filter.cluster);
        call(self.worker, cluster, &filter.cluster, &question).await.map_err(Trouble::Service)
    }
}

/// Bytes of an authorization service's answer.
const MOST_ANSWER: usize = 256 * 1024;
