//! What control can ask of a worker, at a burst boundary.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use flow::Match;
use ofproto::program::{DpAction, DpPort, Program};
use ofproto::snapshot::Dep;
use ports::Queue;

/// Which worker owns the transmit side of each datapath port, by `DpPort`.
pub type Owners = Arc<Vec<Option<u16>>>;

/// One megaflow, for people.
#[derive(Clone, Debug)]
pub struct MegaflowDump {
    /// What it matches; `in_port` is a datapath port.
    pub matches: Match,
    /// What it does.
    pub program: Program,
    /// Packets that hit.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Milliseconds since the last hit.
    pub idle: u64,
    /// Milliseconds since it was made.
    pub age: u64,
    /// Union of TCP flags.
    pub tcp_flags: u16,
    /// Waits to be translated again.
    pub stale: bool,
    /// The rules it was made from: ([`ofproto::snapshot::Bridge::table_id`], cookie).
    pub rules: Vec<(u32, u64)>,
    /// What else it was made from.
    pub depends: Vec<Dep>,
}

/// A command. Replies go through a channel with room for one, so that no worker ever waits.
pub enum Command {
    /// Drive one more queue.
    AddQueue {
        /// Of this port.
        port: DpPort,
        /// The queue.
        queue: Box<Queue>,
    },
    /// Give all queues of a port back, with nothing left in transmit staging.
    RemovePort {
        /// The port.
        port: DpPort,
        /// Where the queues go.
        reply: SyncSender<Vec<Queue>>,
    },
    /// Who transmits for which port, from now on.
    Owners(Owners),
    /// Do a program on a frame that did not come from a port (packet-outs, generated traces). The
    /// answer is `false` if there was no memory for it.
    Execute {
        /// What to do, as translation gave it.
        program: Vec<DpAction>,
        /// The frame.
        frame: Vec<u8>,
        /// Where the answer goes.
        reply: SyncSender<bool>,
    },
    /// Add all that megaflows have counted to their rules.
    PushStats(SyncSender<()>),
    /// List megaflows, at most that many.
    Dump {
        /// At most.
        max: usize,
        /// Where the list goes.
        reply: SyncSender<Vec<MegaflowDump>>,
    },
    /// Forget all megaflows.
    Flush(SyncSender<()>),
    /// End. Queues are handed back.
    Stop(SyncSender<Vec<Queue>>),
}
