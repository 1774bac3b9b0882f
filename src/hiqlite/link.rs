//! The way to the replicated SQLite, whether this process is a node of it or a client.
//!
//! Hiqlite's client keeps one connection, to the leader. It notices the end of one that is younger than ten seconds
//! only when it writes to it, and what was under way then is answered by nobody. So the link asks each new leader
//! something at once ([`Link::refresh`]), and gives up what was sent to the one before.
//!
//! # Tiger Style
//! No wait is Hiqlite's own, whose bounds are up to two minutes: each call has a deadline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hiqlite::{Client, Error};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::look::{self, Line, Seen, Wanted};
use super::schema::{NO_TABLES, schema};
use super::view::View;
use crate::kv::types::{Consistency, KvError, NodeId, Revision, SessionId};
use crate::limits;

/// How far this node is.
#[derive(Clone)]
pub enum Stage {
    /// It belongs to no cluster.
    Waiting {
        /// What it waits for.
        reason: String,
    },
    /// Its cluster is not there yet.
    Connecting {
        /// What is missing.
        reason: String,
    },
    /// It is there.
    Up(Client),
}

/// The way to the cluster. Copies share it.
pub struct Link {
    /// This node, as its clients know it.
    pub node_id: NodeId,
    /// Whether this process is a node of the cluster itself.
    pub is_embedded: bool,
    stage: watch::Sender<Stage>,
    /// The last view of a cluster that this process is a client of, or why there is none.
    seen: watch::Sender<Result<View, String>>,
    revision: AtomicU64,
    /// The leader, as it was seen last; of a cluster that has none, the one before.
    led_by: watch::Sender<Option<NodeId>>,
    /// The leader that has answered a question since it leads; 0 is none.
    reached: AtomicU64,
}

/// Why a statement did not run.
#[derive(Debug)]
pub(super) enum Fault {
    /// It was not applied, and may be later.
    NotApplied(String),
    /// It may have been applied.
    Unknown(String),
    /// The tables are not there yet.
    NoTables,
    /// SQLite refused it.
    Refused(KvError),
}

impl Link {
    /// A way that leads nowhere yet.
    pub fn new(node_id: NodeId, is_embedded: bool, stage: Stage) -> Self {
        Self {
            node_id,
            is_embedded,
            stage: watch::Sender::new(stage),
            seen: watch::Sender::new(Err("the cluster was not asked yet".to_owned())),
            revision: AtomicU64::new(0),
            led_by: watch::Sender::new(None),
            reached: AtomicU64::new(0),
        }
    }

    /// Takes a new stage.
    pub fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Takes what a cluster was seen to be, or why it was not seen.
    pub fn saw(&self, view: Result<View, String>) {
        drop(self.seen.send_replace(view));
    }

    /// Whether there is a client.
    pub fn is_up(&self) -> bool {
        matches!(&*self.stage.borrow(), Stage::Up(_))
    }

    /// The client of a node in this process.
    pub fn embedded_client(&self) -> Option<Client> {
        match self.stage() {
            Stage::Up(client) if self.is_embedded => Some(client),
            _ => None,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// The cluster as it is known here, at once.
    ///
    /// # Errors
    /// Why nothing is known of it, in a sentence.
    pub fn view(&self) -> Result<View, String> {
        if !self.is_embedded {
            return self.seen.borrow().clone();
        }
        match self.stage() {
            Stage::Waiting { reason } | Stage::Connecting { reason } => Err(reason),
            // The node's own metrics are in memory.
            Stage::Up(client) => match client.metrics_db().now_or_never() {
                Some(Ok(metrics)) => serde_json::to_value(&metrics)
                    .and_then(serde_json::from_value)
                    .map_err(|error| error.to_string()),
                Some(Err(error)) => Err(error.to_string()),
                None => Err("the node's metrics are not there".to_owned()),
            },
        }
    }

    /// Waits until the view is one that is looked for.
    pub(super) async fn await_view(&self, deadline: Instant, holds: impl Fn(&View) -> bool) -> Option<View> {
        let mut ticks = tokio::time::interval(Duration::from_millis(limits::HIQLITE_LOOK_INTERVAL_MS));
        let found = async {
            loop {
                ticks.tick().await;
                if let Ok(view) = self.view()
                    && holds(&view)
                {
                    return view;
                }
            }
        };
        timeout_at(deadline, found).await.ok()
    }

    /// The newest revision that was seen through here.
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Relaxed))
    }

    pub(super) fn note(&self, revision: Revision) {
        self.revision.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// The client, once there is one.
    pub(super) async fn client(&self, deadline: Instant) -> Result<Client, KvError> {
        let mut stage = self.stage.subscribe();
        let settled =
            timeout_at(deadline, stage.wait_for(|stage| !matches!(stage, Stage::Connecting { .. })));
        let reason = match settled.await {
            Ok(Ok(stage)) => match &*stage {
                Stage::Up(client) => return Ok(client.clone()),
                Stage::Waiting { .. } => return Err(KvError::NotInitialized),
                Stage::Connecting { reason } => reason.clone(),
            },
            Ok(Err(_)) => return Err(KvError::Stopping { reason: "the link has ended".to_owned() }),
            Err(_) => match self.view() {
                Err(reason) => reason,
                Ok(_) => "the cluster answers, and takes no connection yet".to_owned(),
            },
        };
        Err(no_quorum(reason))
    }

    /// Looks at the store as it is at one moment, until it works or the time is up. A linearizable look sees
    /// all that was acknowledged before; a stale one asks nobody where this process is a node.
    pub(super) async fn look(
        &self,
        deadline: Instant,
        consistency: Consistency,
        session: Option<SessionId>,
        wanted: &[Wanted],
    ) -> Result<Seen, KvError> {
        let mut last = "no leader answered".to_owned();
        loop {
            let client = self.client(deadline).await?;
            let looked = look_once(&client, consistency, session, wanted);
            match self.answered(deadline, looked).await {
                Some(Ok(seen)) => {
                    self.note(seen.revision);
                    return Ok(seen);
                }
                Some(Err(Fault::Refused(error))) => return Err(error),
                Some(Err(Fault::NoTables)) => self.make_tables(&client, deadline).await?,
                Some(Err(Fault::NotApplied(reason) | Fault::Unknown(reason))) => last = reason,
                None => return Err(no_quorum(last)),
            }
            pause(deadline, &last).await?;
        }
    }

    /// Keeps up to date what this node shows of the cluster, and its connection to the leader. What fails is told
    /// by the next read or write.
    pub async fn refresh(&self) {
        let Stage::Up(client) = self.stage() else { return };
        if let Some(leader) = self.view().ok().and_then(|view| view.leader()) {
            self.led_by.send_if_modified(|led_by| led_by.replace(leader) != Some(leader));
            if self.reached.load(Ordering::Relaxed) != leader.0 {
                self.rouse(&client, leader).await;
            }
        }
        let deadline = Instant::now() + Duration::from_millis(limits::HIQLITE_REFRESH_TIMEOUT_MS);
        if let Err(error) = self.look(deadline, Consistency::Stale, None, &[]).await {
            tracing::debug!("the revision is not known: {error}");
        }
    }

    /// Asks the leader something, over whatever connection there is, several times: a dead one shows by that.
    async fn rouse(&self, client: &Client, leader: NodeId) {
        self.reached.store(0, Ordering::Relaxed);
        let bound = Duration::from_millis(limits::HIQLITE_REFRESH_TIMEOUT_MS);
        let questions = (0..limits::HIQLITE_ROUSING_COUNT).map(async |number| {
            tokio::time::sleep(Duration::from_millis(number * limits::HIQLITE_ROUSING_PAUSE_MS)).await;
            let asked = client.query_consistent("SELECT 1", hiqlite::Params::new());
            tokio::time::timeout(bound, asked).await.is_ok_and(|answer| answer.is_ok())
        });
        if join_all(questions).await.contains(&true) {
            self.reached.store(leader.0, Ordering::Relaxed);
        }
    }

    /// What a call comes to; none where the time is up. One that another node has led for a while since it was
    /// made is given up: the old leader's answer does not come any more.
    async fn answered<T>(
        &self,
        deadline: Instant,
        call: impl Future<Output = Result<T, Fault>>,
    ) -> Option<Result<T, Fault>> {
        let mut led_by = self.led_by.subscribe();
        let at_first = *led_by.borrow_and_update();
        let deposed = async {
            let another = |leader: &Option<NodeId>| at_first.is_some() && *leader != at_first;
            if led_by.wait_for(another).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(limits::HIQLITE_DEPOSED_WAIT_MS)).await;
        };
        tokio::select! {
            answer = timeout_at(deadline, call) => answer.ok(),
            () = deposed => Some(Err(Fault::Unknown("another leader was elected meanwhile".to_owned()))),
        }
    }

    /// Runs the statement of a write, once, and gives the revision; none where a condition failed.
    pub(super) async fn run(
        &self,
        client: &Client,
        deadline: Instant,
        (sql, params): (String, hiqlite::Params),
    ) -> Result<Option<Revision>, Fault> {
        let sent = async { client.execute_returning(sql, params).await.map_err(fault) };
        let sent = self.answered(deadline, sent).await;
        let rows = sent.unwrap_or_else(|| Err(Fault::Unknown("no leader answered".to_owned())))?;
        let mut revision = None;
        for row in rows {
            let number: i64 = row.map_err(fault)?.try_get("revision").map_err(fault)?;
            revision = Some(Revision(u64::try_from(number).unwrap_or(0)));
        }
        if let Some(revision) = revision {
            self.note(revision);
        }
        Ok(revision)
    }

    /// Makes the tables. To do it twice changes nothing.
    pub(super) async fn make_tables(&self, client: &Client, deadline: Instant) -> Result<(), KvError> {
        let made = timeout_at(deadline, client.batch(schema())).await;
        let made = made.map_err(|_| no_quorum("no leader made the tables".to_owned()))?;
        let failed = match made {
            Ok(results) => results.into_iter().find_map(Result::err),
            Err(error) => Some(error),
        };
        match failed.map(fault) {
            None | Some(Fault::NotApplied(_) | Fault::Unknown(_)) => Ok(()),
            Some(Fault::Refused(error)) => Err(error),
            Some(Fault::NoTables) => {
                Err(KvError::Storage { reason: "the tables could not be made".to_owned() })
            }
        }
    }
}

async fn look_once(
    client: &Client,
    consistency: Consistency,
    session: Option<SessionId>,
    wanted: &[Wanted],
) -> Result<Seen, Fault> {
    let (sql, params) = look::statement(session, wanted);
    let lines: Result<Vec<Line>, Error> = match consistency {
        Consistency::Linearizable => {
            let rows = client.query_consistent(sql, params).await.map_err(fault)?;
            rows.into_iter().map(|mut row| Line::try_from(&mut row)).collect()
        }
        Consistency::Stale => {
            let lines = client.query_try_map::<Line, _>(sql, params).await.map_err(fault)?;
            lines.into_iter().collect()
        }
    };
    look::gather(wanted, lines.map_err(fault)?).ok_or(Fault::NoTables)
}

/// Waits a little before the next attempt, if there is time for one.
pub(super) async fn pause(deadline: Instant, last: &str) -> Result<(), KvError> {
    let pause = Duration::from_millis(limits::HIQLITE_RETRY_PAUSE_MS);
    if Instant::now() + pause >= deadline {
        return Err(no_quorum(last.to_owned()));
    }
    tokio::time::sleep(pause).await;
    Ok(())
}

pub(super) fn no_quorum(reason: String) -> KvError {
    KvError::NoQuorum { waited_ms: limits::REQUEST_TIMEOUT_MS, reason }
}

/// What an error of Hiqlite means for the statement.
pub(super) fn fault(error: Error) -> Fault {
    let reason = error.to_string();
    if error.is_forward_to_leader().is_some() {
        return Fault::NotApplied(reason);
    }
    match error {
        Error::LeaderChange(_) | Error::CheckIsLeaderError(_) => Fault::NotApplied(reason),
        Error::PrepareStatement(_)
        | Error::Sqlite(_)
        | Error::QueryParams(_)
        | Error::QueryReturnedNoRows(_)
        | Error::ConstraintViolation(_)
        | Error::Transaction(_)
            if reason.contains(NO_TABLES) =>
        {
            Fault::NoTables
        }
        Error::PrepareStatement(_)
        | Error::Sqlite(_)
        | Error::QueryParams(_)
        | Error::QueryReturnedNoRows(_)
        | Error::ConstraintViolation(_)
        | Error::Transaction(_) => Fault::Refused(KvError::Storage { reason }),
        _ => Fault::Unknown(reason),
    }
}
