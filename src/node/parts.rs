//! The parts of a node that run under its supervisor.

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use futures::StreamExt;
use futures::future::pending;
use openraft::async_runtime::WatchReceiver;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::actors::Actors;
use super::data_dir;
use super::founder;
use super::join::ComeIn;
use super::reload::Reload;
use super::static_start::StaticStart;
use super::supervisor::{Part, Supervision};
use super::systemd::Systemd;
use crate::api;
use crate::kv::service::{KvService, disk, history, join, removal, whereabouts};
use crate::limits;
use crate::metrics::Metrics;
use crate::raft::{RaftHandle, log_bounds, observe};
use crate::storage::metadata::Metadata;
use crate::storage::scrub::Scrubber;
use crate::storage::state::StateReader;
use crate::transport::Transport;
use crate::transport::server::Handlers;
use crate::transport::ticket::NodeTicket;
use crate::transport::vouching::Members;

/// Starts parts under a supervisor.
pub(super) struct Parts<'a> {
    pub supervision: &'a Supervision,
    pub stop: &'a CancellationToken,
    /// Ends the HTTP server before the rest.
    pub http_stop: &'a CancellationToken,
}

impl Parts<'_> {
    /// Answers other nodes.
    pub fn transport(&self, transport: Transport, handlers: Handlers) {
        let stop = self.stop.clone();
        let serve = async move { Ok(transport.serve(handlers, stop).await?) };
        self.supervision.run(Part::vital("transport", serve));
    }

    /// Carries what others say to each other.
    pub fn relay(&self, transport: Transport, listener: TcpListener) {
        let stop = self.stop.clone();
        let serve = async move {
            transport.serve_relay(listener, stop).await;
            Ok(())
        };
        self.supervision.run(Part::vital("relay", serve));
    }

    /// Answers clients; `drained` is cancelled when the last answer is out.
    pub fn http(&self, listener: TcpListener, router: Router, drained: CancellationToken) {
        let (http_stop, stop) = (self.http_stop.clone(), self.stop.clone());
        let serve = async move {
            // Also when the server panics.
            let drained = drained.drop_guard();
            api::serve(listener, router, http_stop).await;
            drop(drained);
            // A part that ends before the others would be taken for one that failed.
            stop.cancelled().await;
            Ok(())
        };
        self.supervision.run(Part::vital("http", serve));
    }

    /// Lets local reads in once the state has caught up with the log.
    pub fn recovery(&self, service: KvService) {
        self.housekeeping("recovery", move || {
            let service = service.clone();
            async move {
                service.recover().await;
                pending().await
            }
        });
    }

    /// Compacts the history.
    pub fn history(&self, service: KvService, keep_revisions: u64) {
        self.housekeeping("history", move || {
            let service = service.clone();
            async move {
                history::keep_bounded(service, keep_revisions).await;
                Ok(())
            }
        });
    }

    /// Watches the disk, and keeps the leadership away from one that is not well.
    pub fn disk(&self, service: KvService) {
        self.housekeeping("disk", move || {
            let service = service.clone();
            async move {
                disk::watch(service).await;
                Ok(())
            }
        });
    }

    /// Makes snapshots when the log has grown by so many bytes.
    pub fn log_bounds(&self, raft: RaftHandle, reader: StateReader, every_bytes: u64) {
        self.housekeeping("log-bounds", move || {
            let bounded = log_bounds::keep_bounded(raft.clone(), reader.clone(), every_bytes);
            async move {
                // Raft has ended; its actor says why.
                bounded.await.ok();
                pending().await
            }
        });
    }

    /// Lets members in and cuts former members off.
    pub fn membership(&self, raft: RaftHandle, transport: Transport) {
        self.housekeeping("membership", move || follow_membership(raft.clone(), transport.clone()));
    }

    /// Warns who runs a node that would found a second cluster.
    pub fn founder(&self, raft: RaftHandle) {
        self.housekeeping("founder", move || {
            let warned = founder::warn_once_there_are_others(raft.clone());
            async move {
                // Either all is said, or Raft has ended; its actor says why.
                warned.await.ok();
                pending().await
            }
        });
    }

    /// Keeps the actors of all members within call.
    pub fn actors(&self, actors: Actors) {
        self.housekeeping("actors", move || actors.clone().run());
    }

    /// Asks the members about nodes that are not known here.
    pub fn vouching(&self, transport: Transport) {
        self.housekeeping("vouching", move || {
            let transport = transport.clone();
            async move {
                transport.ask_members().await;
                Ok(())
            }
        });
    }

    /// Notices that this node was removed.
    pub fn removal(&self, service: KvService) {
        self.housekeeping("removal", move || {
            let service = service.clone();
            async move {
                removal::watch(service).await;
                Ok(())
            }
        });
    }

    /// Gives nodes that have come in and caught up their vote.
    pub fn promotion(&self, service: KvService) {
        self.housekeeping("promotion", move || {
            let service = service.clone();
            async move {
                join::promote(service).await;
                Ok(())
            }
        });
    }

    /// Asks to be made a member until this node is one.
    pub fn come_in(&self, come_in: ComeIn, transport: Transport, raft: RaftHandle, metadata: Metadata) {
        self.housekeeping("come-in", move || {
            let asked = come_in.clone().become_member(transport.clone(), raft.clone(), metadata.clone());
            async move {
                asked.await;
                pending().await
            }
        });
    }

    /// Founds a cluster with the nodes that the configuration names.
    pub fn static_start(&self, start: StaticStart) {
        self.housekeeping("static-start", move || {
            let start = start.clone();
            async move {
                start.run().await;
                pending().await
            }
        });
    }

    /// Writes known peers down, for the next start.
    pub fn peers(&self, transport: Transport, metadata: Metadata) {
        self.housekeeping("peers", move || save_peers(transport.clone(), metadata.clone()));
    }

    /// Keeps all other nodes told where this one is.
    pub fn whereabouts(&self, transport: Transport) {
        self.housekeeping("whereabouts", move || {
            let transport = transport.clone();
            async move {
                transport.keep_in_touch().await;
                Ok(())
            }
        });
    }

    /// Has the membership say where its nodes are, while this node leads.
    pub fn addresses_of_members(&self, service: KvService) {
        self.housekeeping("addresses-of-members", move || {
            let service = service.clone();
            async move {
                whereabouts::keep_noted(service).await;
                Ok(())
            }
        });
    }

    /// Keeps the ticket in the data directory up to date.
    pub fn endpoint_file(&self, transport: Transport, dir: PathBuf) {
        self.housekeeping("endpoint-file", move || {
            let (transport, dir) = (transport.clone(), dir.clone());
            async move {
                let mut moves = transport.own_moves();
                loop {
                    data_dir::write_endpoint_file(&dir, &NodeTicket(transport.own_peer()).to_string())?;
                    moves.next().await;
                }
            }
        });
    }

    /// Ends the node when its log or its state is damaged on disk.
    pub fn damage(&self, scrubber: Scrubber) {
        let stop = self.stop.clone();
        let watch = async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                damage = scrubber.damage() => Err(damage.into()),
            }
        };
        self.supervision.run(Part::vital("the disk", watch));
    }

    /// Looks for damage, again and again.
    pub fn scrub(&self, scrubber: Scrubber, interval: Duration) {
        self.housekeeping("scrub", move || scrub(scrubber.clone(), interval));
    }

    /// Reads the settings again when it is asked to.
    pub fn reload(&self, reload: Reload) {
        self.housekeeping("reload", move || {
            let reload = reload.clone();
            async move {
                reload.run().await;
                Ok(())
            }
        });
    }

    /// Keeps systemd told.
    pub fn systemd(&self, systemd: Systemd) {
        self.housekeeping("systemd", move || {
            let systemd = systemd.clone();
            async move {
                systemd.keep_told().await;
                Ok(())
            }
        });
    }

    /// Keeps the figures up to date.
    pub fn figures(&self, figures: Metrics, raft: RaftHandle, reader: StateReader) {
        self.housekeeping("figures", move || {
            let (figures, raft, reader) = (figures.clone(), raft.clone(), reader.clone());
            async move {
                let mut ticks =
                    tokio::time::interval(Duration::from_millis(limits::METRICS_UPKEEP_INTERVAL_MS));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    figures.run_upkeep();
                    publish(&raft, &reader);
                }
            }
        });
    }

    fn housekeeping<F, R>(&self, name: &'static str, run: F)
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), anyhow::Error>> + Send + 'static,
    {
        let (stop, run) = (self.stop.clone(), std::sync::Arc::new(run));
        self.supervision.run(Part::restarted(name, limits::PART_RESTARTS_MAX_COUNT, move || {
            let (stop, run) = (stop.clone(), run.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    ended = run() => ended,
                }
            }
        }));
    }
}

async fn scrub(scrubber: Scrubber, interval: Duration) -> Result<(), anyhow::Error> {
    let mut pause = interval.min(Duration::from_secs(limits::SCRUB_FIRST_AFTER_S));
    // A large state was not checked at the start: the first pass makes up for that.
    let mut bytes_per_second = limits::SCRUB_FIRST_MAX_BYTES_PER_SECOND;
    loop {
        tokio::time::sleep(pause).await;
        pause = interval;
        let mut pass = scrubber.begin();
        loop {
            let scrubber = scrubber.clone();
            let stepped = tokio::task::spawn_blocking(move || {
                let read = scrubber.step(&mut pass);
                (pass, read)
            });
            let read;
            (pass, read) = stepped.await?;
            match read {
                Ok(Some(bytes)) => {
                    // Keeps the scrub within its budget.
                    tokio::time::sleep(Duration::from_micros(bytes * 1_000_000 / bytes_per_second)).await;
                }
                Ok(None) => break,
                // The part that waits for damage has the word.
                Err(_) => pending().await,
            }
        }
        bytes_per_second = limits::SCRUB_MAX_BYTES_PER_SECOND;
        let (tally, took) = (pass.tally(), pass.duration());
        tracing::info!(records = tally.records, blocks = tally.blocks, ?took, "searched the disk for damage");
    }
}

async fn follow_membership(raft: RaftHandle, transport: Transport) -> Result<(), anyhow::Error> {
    // Not all metrics: those change with every entry.
    let mut metrics = raft.server_metrics();
    let mut last = None;
    // The entry of a membership that the state may not have yet.
    let mut awaited = None;
    loop {
        let membership = metrics.borrow_watched().membership_config.clone();
        if last.as_ref() != Some(&membership) {
            transport.cut_off(&transport.book().set_members(Members::of(&membership)));
            awaited = membership.log_id().map(|log_id| log_id.index);
            last = Some(membership);
        }
        tokio::select! {
            changed = metrics.changed() => {
                if changed.is_err() {
                    // Raft has ended; its actor says why.
                    pending::<()>().await;
                }
            }
            told = transport.learn_of_former_members(awaited.unwrap_or_default()), if awaited.is_some() => {
                told?;
                awaited = None;
            }
        }
    }
}

async fn save_peers(transport: Transport, metadata: Metadata) -> Result<(), anyhow::Error> {
    let mut changes = transport.book().changes();
    let mut saved = (metadata.peers(), metadata.once_members());
    loop {
        let known = (transport.book().to_keep(), transport.book().once_members());
        if known != saved {
            let (metadata, (peers, once_members)) = (metadata.clone(), known.clone());
            tokio::task::spawn_blocking(move || metadata.save_peers(&peers, &once_members)).await??;
            saved = known;
        }
        changes.changed().await?;
    }
}

fn publish(raft: &RaftHandle, reader: &StateReader) {
    let metrics = observe::metrics(raft);
    let index = |index: Option<u64>| index.map_or(0.0, |index| index as f64);
    ::metrics::gauge!("aspen_raft_term").set(metrics.current_term as f64);
    ::metrics::gauge!("aspen_raft_leader").set(metrics.current_leader.map_or(0.0, |leader| leader.0 as f64));
    ::metrics::gauge!("aspen_raft_last_log_index").set(index(metrics.last_log_index));
    ::metrics::gauge!("aspen_raft_committed_index")
        .set(index(metrics.cluster_committed.as_ref().map(|log_id| log_id.index())));
    ::metrics::gauge!("aspen_raft_applied_index")
        .set(index(metrics.last_applied.as_ref().map(|log_id| log_id.index())));
    ::metrics::gauge!("aspen_raft_snapshot_index")
        .set(index(metrics.snapshot.as_ref().map(|log_id| log_id.index())));
    if let Ok(Some(bytes)) = reader.file_bytes() {
        ::metrics::gauge!("aspen_state_file_bytes").set(bytes as f64);
    }
    ::metrics::gauge!("aspen_store_revision").set(reader.revision().0 as f64);
}
