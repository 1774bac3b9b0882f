//! One request, sent until it is answered: failover, the leader's hint, pauses, and the deadline.
//!
//! A request that may have reached a node is sent again only if it says that this is safe, and from
//! then on a failure is reported as an unknown outcome rather than as nothing done.
//!
//! # Tiger Style
//! Ends at its deadline, or after [`limits::CLIENT_ABSENT_TIMEOUT_MS`] in which nobody listened at any
//! address. Each round asks each address once, and each leader that was named in it; between rounds it
//! pauses, longer each time. One reply has at most [`limits::CLIENT_REPLY_MAX_BYTES`].

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::Instant;

use super::address::Targets;
use super::held::{HeldCluster, Stray};
use super::verdict::{Again, Attempt, Verdict, judge};
use super::{Address, ClientError, Effect};
use crate::kv::cluster_header::ClusterHeader;
use crate::kv::token::HttpToken;
use crate::limits;

/// Whether a request that may have taken effect can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It has the same effect each time, if any.
    Freely,
    /// The cluster knows it again and applies it once.
    WithSession,
    /// It cannot.
    Never,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: Cow<'static, str>,
    pub(super) body: Bytes,
    pub(super) repeat: Repeat,
    /// What it does, if anything.
    pub(super) effect: Effect,
    /// Whether it is meant for a node whichever cluster that belongs to.
    pub(super) of_any_cluster: bool,
    /// A status besides success whose body is the answer.
    pub(super) also_answer: Option<StatusCode>,
    pub(super) attempt_timeout: Duration,
    pub(super) deadline: Deadline,
}

impl Call {
    /// A read or a write, with the time for one attempt that fits it.
    pub(super) fn new(
        method: Method,
        path: impl Into<Cow<'static, str>>,
        body: Bytes,
        repeat: Repeat,
        deadline: Deadline,
    ) -> Self {
        let attempt_timeout = Duration::from_millis(limits::CLIENT_ATTEMPT_TIMEOUT_MS);
        let (path, effect) = (path.into(), Effect::Write);
        let (of_any_cluster, also_answer) = (false, None);
        Self { method, path, body, repeat, effect, of_any_cluster, also_answer, attempt_timeout, deadline }
    }
}

/// When a call began, and when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    began: Instant,
    pub(super) at: Instant,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        let began = Instant::now();
        Self { began, at: began + timeout }
    }

    pub(super) fn waited_ms(self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn has_passed(self) -> bool {
        Instant::now() >= self.at
    }
}

/// What a call has seen so far.
#[derive(Default)]
struct Progress {
    tried: Vec<Address>,
    /// Whether an attempt got as far as a node, or what stands in its place.
    was_heard: bool,
    unsure: bool,
    last_refusal: Option<ClientError>,
    /// The same of another cluster's node, which says nothing of the own one.
    last_stray: Option<ClientError>,
    last_reason: String,
    /// What came of the last address where nothing answered.
    last_silence: Option<String>,
}

impl Progress {
    fn saw(&mut self, address: &Address) {
        if !self.tried.contains(address) {
            self.tried.push(address.clone());
        }
    }

    /// Keeps what an attempt taught, and gives the leader that it named.
    fn note(&mut self, address: &Address, again: Again) -> Option<Address> {
        self.unsure |= again.unsure;
        self.last_reason = again.reason;
        // A node's own words say more than a later silence.
        match again.error {
            Some(error @ ClientError::OtherCluster { .. }) => self.last_stray = Some(error),
            Some(error) => self.last_refusal = Some(error),
            None => self.last_silence = Some(format!("{address}: {}", self.last_reason)),
        }
        again.leader
    }

    /// Whether there is no time left for another attempt after this pause.
    fn is_over(&self, call: &Call, pause: Duration) -> bool {
        let is_absent = !self.was_heard && call.deadline.waited_ms() >= limits::CLIENT_ABSENT_TIMEOUT_MS;
        is_absent || Instant::now() + pause >= call.deadline.at
    }

    fn outcome_unknown(&self, call: &Call) -> Option<Effect> {
        (self.unsure && call.repeat != Repeat::Freely).then_some(call.effect)
    }

    fn error(&mut self, call: &Call) -> ClientError {
        let told =
            self.last_refusal.take().or_else(|| Some(self.last_stray.take()?.beside(&self.last_silence)));
        let error = told.unwrap_or_else(|| ClientError::Unreachable {
            tried: self.tried.clone(),
            waited_ms: call.deadline.waited_ms(),
            reason: self.last_reason.clone(),
            outcome_unknown: None,
        });
        error.with_outcome(self.outcome_unknown(call))
    }
}

/// Sends requests to the members.
#[derive(Debug)]
pub(super) struct Http {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
    token: Option<HttpToken>,
    targets: Targets,
    cluster: HeldCluster,
}

/// The head of an answer.
struct Begun {
    response: Response<Incoming>,
    /// Set where it is another cluster's.
    stray: Option<Stray>,
}

impl Http {
    pub(super) fn new(targets: Targets, token: Option<HttpToken>, cluster: HeldCluster) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_millis(limits::CLIENT_CONNECT_TIMEOUT_MS)));
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_millis(limits::CLIENT_IDLE_TIMEOUT_MS))
            .pool_max_idle_per_host(limits::CLIENT_LANES_MAX_COUNT)
            .build(connector);
        Self { client, token, targets, cluster }
    }

    /// Sends the request until it is answered, refused, or out of time.
    pub(super) async fn call<R: DeserializeOwned>(&self, call: &Call) -> Result<R, ClientError> {
        let mut progress = Progress::default();
        let mut pauses = pauses();
        loop {
            if let Some(outcome) = self.round(call, &mut progress).await {
                return outcome.map_err(|error| error.with_outcome(progress.outcome_unknown(call)));
            }
            let pause = pauses.next().expect("the pauses have no end");
            if progress.is_over(call, pause) {
                return Err(progress.error(call));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends the request until a node begins to answer it, with a body that may be of any length.
    pub(super) async fn open(&self, call: &Call) -> Result<(Address, Incoming), ClientError> {
        let mut progress = Progress::default();
        let mut pauses = pauses();
        loop {
            let mut all_out = true;
            for address in self.targets.in_order() {
                progress.saw(&address);
                let attempt = match self.begin(call, &address).await {
                    Ok(Begun { response, stray: None }) if response.status().is_success() => {
                        self.targets.prefer(&address);
                        return Ok((address, response.into_body()));
                    }
                    Ok(begun) => take(begun).await.unwrap_or_else(|attempt| attempt),
                    Err(attempt) => attempt,
                };
                progress.was_heard |= attempt.was_heard();
                match judge::<IgnoredAny>(call.also_answer, &address, attempt) {
                    Verdict::Done(_) => unreachable!("what is no success is no answer"),
                    Verdict::Fail { error, .. } => return Err(error),
                    Verdict::Again(again) => {
                        self.targets.avoid(&address);
                        all_out &= again.is_lasting();
                        progress.note(&address, again);
                    }
                }
            }
            if all_out {
                return Err(progress.error(call));
            }
            let pause = pauses.next().expect("the pauses have no end");
            if progress.is_over(call, pause) {
                return Err(progress.error(call));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks each address once. None: it is worth another round.
    async fn round<R: DeserializeOwned>(
        &self,
        call: &Call,
        progress: &mut Progress,
    ) -> Option<Result<R, ClientError>> {
        let mut queue = VecDeque::from(self.targets.in_order());
        let mut asked = Vec::new();
        let mut all_out = true;
        while let Some(address) = queue.pop_front() {
            if asked.contains(&address) {
                continue;
            }
            if call.deadline.has_passed() {
                return None;
            }
            asked.push(address.clone());
            progress.saw(&address);
            let attempt = self.attempt(call, &address).await;
            progress.was_heard |= attempt.was_heard();
            let again = match judge(call.also_answer, &address, attempt) {
                Verdict::Done(reply) => {
                    self.targets.prefer(&address);
                    return Some(Ok(reply));
                }
                Verdict::Fail { error, unsure } => {
                    progress.unsure |= unsure;
                    return Some(Err(error));
                }
                Verdict::Again(again) => again,
            };
            tracing::debug!(%address, path = %call.path, reason = again.reason, "the request was not served");
            self.targets.avoid(&address);
            all_out &= again.is_lasting();
            if again.is_stray() && again.unsure && call.repeat != Repeat::Freely {
                tracing::warn!(%address, path = %call.path, "the request may have been carried out: {}", again.reason);
            }
            let give_up = again.unsure && call.repeat == Repeat::Never;
            if let Some(leader) = progress.note(&address, again) {
                queue.push_front(leader);
            }
            if give_up {
                return Some(Err(progress.error(call)));
            }
        }
        // No amount of waiting forms a cluster, or brings a removed node back.
        all_out.then(|| Err(progress.error(call)))
    }

    async fn attempt(&self, call: &Call, address: &Address) -> Attempt {
        let exchange = async {
            let begun = self.begin(call, address).await?;
            take(begun).await
        };
        let until = call.deadline.at.min(Instant::now() + call.attempt_timeout);
        match tokio::time::timeout_at(until, exchange).await {
            Ok(Ok(attempt) | Err(attempt)) => attempt,
            Err(_) => Attempt::NoAnswer { reason: "it did not answer in time".to_owned() },
        }
    }

    /// Sends the request once, and takes the head of the answer.
    async fn begin(&self, call: &Call, address: &Address) -> Result<Begun, Attempt> {
        let mut request = self.request(call, address);
        let connection = capture_connection(&mut request);
        let until = call.deadline.at.min(Instant::now() + call.attempt_timeout);
        match tokio::time::timeout_at(until, self.client.request(request)).await {
            Ok(Ok(response)) => {
                let stray = self.cluster.look_at(response.headers()).filter(|_| !call.of_any_cluster);
                Ok(Begun { response, stray })
            }
            Ok(Err(error)) => {
                let reason = with_causes(&error);
                Err(if error.is_connect() {
                    Attempt::NotSent { reason }
                } else {
                    Attempt::NoAnswer { reason }
                })
            }
            Err(_) if connection.connection_metadata().is_none() => {
                Err(Attempt::NotSent { reason: "it did not accept a connection in time".to_owned() })
            }
            Err(_) => Err(Attempt::NoAnswer { reason: "it did not answer in time".to_owned() }),
        }
    }

    fn request(&self, call: &Call, address: &Address) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(call.method.clone()).uri(address.uri(&call.path));
        if call.method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if let Some(cluster_id) = self.cluster.header().filter(|_| !call.of_any_cluster) {
            request = request.header(ClusterHeader::NAME, cluster_id);
        }
        request.body(Full::new(call.body.clone())).expect("checked parts make a request")
    }
}

/// Takes the rest of an answer, which has a bound.
async fn take(Begun { response, stray }: Begun) -> Result<Attempt, Attempt> {
    let status = response.status();
    if let Some(stray) = stray.filter(|_| status.is_success()) {
        // What it says is of no use; that it was done there is.
        return Ok(Attempt::Astray { stray, status, body: Bytes::new() });
    }
    let body = Limited::new(response.into_body(), limits::CLIENT_REPLY_MAX_BYTES);
    let body = body.collect().await.map_err(|error| Attempt::NoAnswer { reason: error.to_string() })?;
    let body = body.to_bytes();
    Ok(match stray {
        Some(stray) => Attempt::Astray { stray, status, body },
        None => Attempt::Answered { status, body },
    })
}

/// The pauses between rounds.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(limits::CLIENT_BACKOFF_MIN_MS))
        .with_max_delay(Duration::from_millis(limits::CLIENT_BACKOFF_MAX_MS))
        .with_jitter()
        .without_max_times()
        .build()
}

/// An error with what caused it, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
