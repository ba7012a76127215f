//! Owns the description of streaming load, who publishes what to whom and who reads how fast, and of
//! what came of it. Never touches a socket.

use std::time::Duration;

use crate::block::Block;
use crate::process::Spent;
use crate::statistics::Latencies;

/// How a party reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reads {
    /// Everything, at once.
    #[default]
    AtOnce,
    /// At most so many bytes a second. The server may cut it off.
    BytesPerSecond(u64),
    /// Never. The server may cut it off.
    Never,
}

/// One connection and what it does.
#[derive(Debug, Clone, Default)]
pub struct Party {
    /// Index of the endpoint it connects to.
    pub endpoint: usize,
    /// The group whose messages it publishes or receives.
    pub group: usize,
    /// SUB lines sent before the load starts; none when empty.
    pub subscribes: Vec<u8>,
    /// What it publishes, round and round.
    pub publishes: Option<Block>,
    /// How it reads. Readers that are not [`Reads::AtOnce`] are not counted.
    pub reads: Reads,
}

impl Party {
    /// A publisher.
    #[must_use]
    pub fn publisher(group: usize, block: Block) -> Self {
        Self { group, publishes: Some(block), ..Self::default() }
    }

    /// A subscriber by one subject and sid.
    #[must_use]
    pub fn subscriber(group: usize, subject: &str, sid: usize) -> Self {
        Self { group, subscribes: format!("SUB {subject} {sid}\r\n").into_bytes(), ..Self::default() }
    }

    /// The same party at another endpoint.
    #[must_use]
    pub fn at(mut self, endpoint: usize) -> Self {
        self.endpoint = endpoint;
        self
    }
}

/// How a group's messages reach its subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Each message reaches every subscriber of the group once.
    #[default]
    Each,
    /// Each message reaches one subscriber of the group.
    One,
    /// Each message reaches some subscriber of the group, once; which is up to its subject.
    Spread,
}

/// A whole load.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// The connections.
    pub parties: Vec<Party>,
    /// One for each group; groups beyond the end are [`Delivery::Each`].
    pub deliveries: Vec<Delivery>,
    /// Whether publishers go on however far readers are behind.
    pub unbounded: bool,
    /// Whether clients spread over loopback addresses (needed beyond some 20,000).
    pub spread: bool,
}

/// How long.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Before the clock starts.
    pub warm: Duration,
    /// With the clock running.
    pub measured: Duration,
    /// How long nothing may move before a run has failed.
    pub patience: Duration,
}

/// What went through while the clock ran.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flow {
    /// Messages published in the measured time.
    pub published: u64,
    /// Messages received in it by counted readers.
    pub delivered: u64,
    /// What the measured time cost; its units are deliveries, or without readers what was published.
    pub spent: Spent,
    /// Messages published in all, warm-up and finish included.
    pub published_in_all: u64,
    /// Uncounted readers that the server cut off.
    pub cut_off: usize,
}

/// What came of load whose single messages, requests or connections were timed.
pub struct Timed {
    /// What the measured time brought and cost.
    pub spent: Spent,
    /// Of each unit in it.
    pub latencies: Latencies,
}
