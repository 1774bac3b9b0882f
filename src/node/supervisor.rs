//! The supervision tree: one root actor, and under it an actor for each part of the node.
//!
//! A part is something that runs for as long as the node does: the Raft actor, the transport's accept
//! loop, the HTTP server, housekeeping. A part that may be restarted is, after a pause. One that fails too
//! often, or for good, takes the node down with the reason, rather than leaving a zombie that holds its
//! ports and answers nothing.
//!
//! # Tiger Style
//! - A part ends without an error only after the node has been told to stop.
//! - A part is started again so often in [`limits::PART_RESTARTS_WINDOW_MS`] as it may be, and no more.
//! - The pause before it doubles from [`limits::PART_RESTART_PAUSE_MIN_MS`] to
//!   [`limits::PART_RESTART_PAUSE_MAX_MS`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits;

/// How a part ends: with an error, or because the node stops.
pub type PartResult = Result<(), anyhow::Error>;

/// Something that runs for as long as the node does.
#[derive(Clone)]
pub struct Part {
    name: &'static str,
    restarts_max: usize,
    /// When it was started again, as far as that counts still.
    restarts: VecDeque<Instant>,
    start: Arc<dyn Fn() -> BoxFuture<'static, PartResult> + Send + Sync>,
}

impl Part {
    /// A part whose failure ends the node.
    pub fn vital<F>(name: &'static str, run: F) -> Self
    where
        F: Future<Output = PartResult> + Send + 'static,
    {
        // It is started once, so the future is there the one time it is asked for.
        let once = std::sync::Mutex::new(Some(run.boxed()));
        Self {
            name,
            restarts_max: 0,
            restarts: VecDeque::new(),
            start: Arc::new(move || {
                let run = once.lock().expect("no code panics while it holds this lock").take();
                run.expect("a vital part is started once")
            }),
        }
    }

    /// A part that is started again when it fails, at most `restarts_max` times within a while.
    pub fn restarted<F, R>(name: &'static str, restarts_max: usize, start: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = PartResult> + Send + 'static,
    {
        Self { name, restarts_max, restarts: VecDeque::new(), start: Arc::new(move || start().boxed()) }
    }

    /// Counts a restart, and says what pause comes before it. None if there were too many.
    fn count_restart(&mut self, now: Instant) -> Option<Duration> {
        let window = Duration::from_millis(limits::PART_RESTARTS_WINDOW_MS);
        self.restarts.retain(|at| now.saturating_duration_since(*at) < window);
        if self.restarts.len() >= self.restarts_max {
            return None;
        }
        let mut pauses = std::iter::successors(Some(limits::PART_RESTART_PAUSE_MIN_MS), |pause| {
            Some((pause * 2).min(limits::PART_RESTART_PAUSE_MAX_MS))
        });
        let pause = pauses.nth(self.restarts.len()).expect("there is no last one");
        self.restarts.push_back(now);
        Some(Duration::from_millis(pause))
    }
}

/// What the supervisor is asked for.
pub enum SupervisorMessage {
    /// Run this part.
    Run(Part),
    /// Watch an actor that was started elsewhere; its end is the node's.
    Adopt(ActorCell, &'static str),
}

impl ractor::Message for SupervisorMessage {}

/// The tree's root, as the rest of the node sees it.
#[derive(Clone)]
pub struct Supervision {
    root: ActorRef<SupervisorMessage>,
    stop: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Supervision {
    /// Starts the root. `stop` is cancelled when a part fails for good.
    ///
    /// # Errors
    /// If the actor system refuses to start an actor.
    pub async fn start(stop: CancellationToken) -> Result<Self, SpawnErr> {
        let failure = Arc::new(OnceLock::new());
        let arguments = Tree { parts: HashMap::new(), stop: stop.clone(), failure: failure.clone() };
        let (root, _) = Actor::spawn(Some("aspen".to_owned()), Supervisor, arguments).await?;
        Ok(Self { root, stop, failure })
    }

    /// Runs a part under the root.
    pub fn run(&self, part: Part) {
        self.send(SupervisorMessage::Run(part));
    }

    /// Puts an actor that was started elsewhere under the root.
    pub fn adopt(&self, actor: ActorCell, name: &'static str) {
        self.send(SupervisorMessage::Adopt(actor, name));
    }

    /// Why a part failed for good, if one did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Stops all parts that are left, and the root.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.root.stop_children_and_wait(None, Some(super::stop_timeout())).await;
        if self.root.stop_and_wait(None, Some(super::stop_timeout())).await.is_err() {
            tracing::debug!("the supervisor was gone already");
        }
    }

    fn send(&self, message: SupervisorMessage) {
        if self.root.cast(message).is_err() {
            fail(&self.failure, &self.stop, "the supervisor has ended".to_owned());
        }
    }
}

/// The root actor.
struct Supervisor;

struct Tree {
    parts: HashMap<ActorId, (&'static str, Option<Part>)>,
    stop: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Tree;
    type Arguments = Tree;

    async fn pre_start(
        &self,
        _: ActorRef<SupervisorMessage>,
        tree: Tree,
    ) -> Result<Tree, ActorProcessingErr> {
        Ok(tree)
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        tree: &mut Tree,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // It was in the pause when the node was told to stop.
            SupervisorMessage::Run(part) if !part.restarts.is_empty() && tree.stop.is_cancelled() => {}
            SupervisorMessage::Run(part) => spawn(&myself, part, tree).await?,
            SupervisorMessage::Adopt(actor, name) => {
                actor.link(myself.get_cell());
                tree.parts.insert(actor.get_id(), (name, None));
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        tree: &mut Tree,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, reason) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                (actor, reason.unwrap_or_else(|| "it ended".to_owned()))
            }
            _ => return Ok(()),
        };
        let Some((name, part)) = tree.parts.remove(&actor.get_id()) else {
            return Ok(());
        };
        if tree.stop.is_cancelled() {
            return Ok(());
        }
        let restarted =
            part.and_then(|mut part| part.count_restart(Instant::now()).map(|pause| (part, pause)));
        if let Some((part, pause)) = restarted {
            tracing::warn!(part = name, "{name} failed and is started again in {pause:?}: {reason}");
            myself.send_after(pause, || SupervisorMessage::Run(part));
        } else {
            fail(&tree.failure, &tree.stop, format!("{name} failed: {reason}"));
        }
        Ok(())
    }
}

async fn spawn(
    myself: &ActorRef<SupervisorMessage>,
    part: Part,
    tree: &mut Tree,
) -> Result<(), ActorProcessingErr> {
    let arguments = (part.clone(), tree.stop.clone());
    let (actor, _) = Actor::spawn_linked(None, PartActor, arguments, myself.get_cell()).await?;
    tree.parts.insert(actor.get_id(), (part.name, Some(part)));
    Ok(())
}

/// The first reason is the one that counts; what fails afterwards fails because of it.
fn fail(failure: &OnceLock<String>, stop: &CancellationToken, reason: String) {
    if failure.set(reason).is_ok() {
        stop.cancel();
    }
}

/// Runs one part.
struct PartActor;

/// How a part's future ended.
enum PartMessage {
    Ended(PartResult),
}

impl ractor::Message for PartMessage {}

impl Actor for PartActor {
    type Msg = PartMessage;
    type State = (tokio::task::JoinHandle<()>, CancellationToken);
    type Arguments = (Part, CancellationToken);

    async fn pre_start(
        &self,
        myself: ActorRef<PartMessage>,
        (part, stop): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let run = tokio::spawn((part.start)());
        let report = tokio::spawn(async move {
            let result = run.await.unwrap_or_else(|error| Err(error.into()));
            myself.cast(PartMessage::Ended(result)).ok();
        });
        Ok((report, stop))
    }

    async fn handle(
        &self,
        myself: ActorRef<PartMessage>,
        PartMessage::Ended(result): PartMessage,
        (_, stop): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match result {
            Err(error) => Err(error.to_string().into()),
            Ok(()) if stop.is_cancelled() => {
                myself.stop(None);
                Ok(())
            }
            Ok(()) => Err("it ended although the node runs on".into()),
        }
    }

    async fn post_stop(
        &self,
        _: ActorRef<PartMessage>,
        (report, _): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        report.abort();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    async fn supervision() -> (Supervision, CancellationToken) {
        let stop = CancellationToken::new();
        let tree = Tree { parts: HashMap::new(), stop: stop.clone(), failure: Arc::default() };
        let failure = tree.failure.clone();
        let (root, _) = Actor::spawn(None, Supervisor, tree).await.unwrap();
        (Supervision { root, stop: stop.clone(), failure }, stop)
    }

    #[tokio::test]
    async fn a_vital_part_that_fails_stops_the_node_with_its_reason() {
        let (supervision, stop) = supervision().await;
        supervision.run(Part::vital("disk", async { anyhow::bail!("it is on fire") }));
        stop.cancelled().await;
        assert_eq!(supervision.failure(), Some("disk failed: it is on fire"));
    }

    #[tokio::test]
    async fn a_part_that_panics_stops_the_node_with_its_reason() {
        let (supervision, stop) = supervision().await;
        supervision.run(Part::vital("disk", async { panic!("no sectors left") }));
        stop.cancelled().await;
        assert!(supervision.failure().unwrap().contains("no sectors left"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_part_runs_again_and_fails_for_good_when_its_restarts_are_used_up() {
        let (supervision, stop) = supervision().await;
        let (runs, begun) = (Arc::new(AtomicU32::new(0)), Instant::now());
        let counted = runs.clone();
        supervision.run(Part::restarted("keeper", 2, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async { anyhow::bail!("tired") }
        }));
        stop.cancelled().await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert_eq!(supervision.failure(), Some("keeper failed: tired"));
        let paused = begun.elapsed();
        assert!(paused >= Duration::from_millis(limits::PART_RESTART_PAUSE_MIN_MS * 3), "{paused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_once_in_a_while_runs_on() {
        let (supervision, stop) = supervision().await;
        let (ran, mut runs) = tokio::sync::mpsc::channel(1);
        supervision.run(Part::restarted("keeper", 2, move || {
            let ran = ran.clone();
            async move {
                ran.send(()).await?;
                tokio::time::sleep(Duration::from_millis(limits::PART_RESTARTS_WINDOW_MS / 2)).await;
                anyhow::bail!("tired")
            }
        }));
        for _ in 0..10 {
            runs.recv().await.expect("it is started again");
        }
        assert!(!stop.is_cancelled(), "{:?}", supervision.failure());
    }

    #[test]
    fn the_pause_before_a_restart_doubles_up_to_the_longest_and_begins_anew_after_a_while() {
        let mut part = Part::restarted("keeper", 6, || async { Ok(()) });
        let now = Instant::now();
        let pauses: Vec<u128> = (0..6).map(|_| part.count_restart(now).unwrap().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(part.count_restart(now), None);
        let later = now + Duration::from_millis(limits::PART_RESTARTS_WINDOW_MS);
        assert_eq!(part.count_restart(later), Some(Duration::from_millis(limits::PART_RESTART_PAUSE_MIN_MS)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_not_started_again_after_the_stop() {
        let (supervision, stop) = supervision().await;
        let (ran, mut runs) = tokio::sync::mpsc::channel(2);
        supervision.run(Part::restarted("keeper", 2, move || {
            let ran = ran.clone();
            async move {
                ran.send(()).await?;
                anyhow::bail!("tired")
            }
        }));
        runs.recv().await.expect("it is started");
        // Time stands still until all has come to rest, which is in the pause.
        tokio::time::sleep(Duration::from_millis(limits::PART_RESTART_PAUSE_MIN_MS / 2)).await;
        stop.cancel();
        tokio::time::sleep(Duration::from_millis(limits::PART_RESTART_PAUSE_MAX_MS)).await;
        assert!(runs.try_recv().is_err(), "it was started again");
    }

    #[tokio::test]
    async fn parts_that_end_after_the_stop_are_no_failure() {
        let (supervision, stop) = supervision().await;
        let waits = stop.clone();
        supervision.run(Part::vital("waiter", async move {
            waits.cancelled().await;
            Ok(())
        }));
        supervision.stop().await;
        assert_eq!(supervision.failure(), None);
    }
}
