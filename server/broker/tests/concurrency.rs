//! What workers share, under loom: every order in which two or three threads may take their steps is tried, with
//! the weak memory orders of real processors.
//!
//! The sources of the room are compiled a second time here, with loom's locks and atomics in the place of the
//! real ones. The transport behaves as a socket does: it takes what there is room for, and raises one edge when
//! room comes after a short write.
//!
//! A deeper search: `LOOM_MAX_PREEMPTIONS=4 cargo test -p starling-broker --test concurrency --release`.
#![allow(dead_code, missing_docs)]

#[path = "../src/link.rs"]
mod link;
#[path = "../src/mailbox.rs"]
mod mailbox;
#[path = "../src/output.rs"]
mod output;
#[path = "../src/progress.rs"]
mod progress;

/// Loom's locks with the manners of those that the room uses.
mod sync {
    pub use loom::sync::MutexGuard;
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

    pub fn sequential() {
        loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
    }

    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Mutex<T> {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Mutex::new(T::default())
        }
    }
}

use bytes::Bytes;
use link::{CloseReason, Link, LinkKind, LinkParts, Transport};
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;
use mailbox::{Command, Mailbox, Wake};
use output::{Delivered, HIGH_BYTES, Output, Promise, Rendering, Segment};
use progress::Progress;
use std::io::{self, IoSlice};
use std::sync::Arc;

const PREEMPTIONS_MAX: usize = 3;

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS_MAX));
    builder.check(run);
}

/// A socket: the kernel's buffer and its edge.
#[derive(Default)]
struct Kernel {
    room: usize,
    /// The last write was short: room raises an edge.
    short: bool,
    edge: bool,
    taken_bytes: usize,
    /// The bytes themselves, as far as the model keeps them.
    taken: Vec<u8>,
    shut_down: bool,
}

struct Socket {
    kernel: sync::Mutex<Kernel>,
    writing: sync::AtomicBool,
}

#[derive(Clone)]
struct Wire(Arc<Socket>);

const KEPT_BYTES_MAX: usize = 64;

impl Wire {
    fn new(room: usize) -> Wire {
        let kernel = Kernel { room, ..Kernel::default() };
        Wire(Arc::new(Socket { kernel: sync::Mutex::new(kernel), writing: sync::AtomicBool::new(false) }))
    }

    /// The peer reads: room for `bytes` more. `true`: the owner sees a writable edge.
    fn drain(&self, bytes: usize) -> bool {
        let mut kernel = self.0.kernel.lock();
        kernel.room = kernel.room.saturating_add(bytes);
        let edge = kernel.edge || (kernel.short && kernel.room > 0);
        (kernel.short, kernel.edge) = (kernel.short && !edge, false);
        edge
    }

    fn taken(&self) -> Vec<u8> {
        self.0.kernel.lock().taken.clone()
    }
}

impl Transport for Wire {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(!self.0.writing.swap(true, SeqCst), "two threads write to one connection");
        let mut written = 0;
        {
            let mut kernel = self.0.kernel.lock();
            for slice in slices {
                let taken = slice.len().min(kernel.room);
                kernel.room -= taken;
                written += taken;
                kernel.taken_bytes += taken;
                if slice.len() <= KEPT_BYTES_MAX {
                    kernel.taken.extend(&slice[..taken]);
                }
                if taken < slice.len() {
                    kernel.short = true;
                    break;
                }
            }
        }
        self.0.writing.store(false, SeqCst);
        Ok(written)
    }

    fn rearm(&self) {
        self.0.kernel.lock().edge = true;
    }

    fn shutdown(&self) {
        self.0.kernel.lock().shut_down = true;
    }
}

fn deliver(output: &Output, wire: &Wire, bytes: &[u8]) -> Delivered {
    let segments = [Segment::Scratch(0, bytes.len() as u32)];
    output.deliver(wire, &mut rendering(bytes, &segments), usize::MAX)
}

fn defer(output: &Output, bytes: &[u8]) -> bool {
    let segments = [Segment::Scratch(0, bytes.len() as u32)];
    output.defer(&mut rendering(bytes, &segments), usize::MAX, Promise::Soon).1
}

fn rendering<'a>(bytes: &'a [u8], segments: &'a [Segment]) -> Rendering<'a> {
    Rendering {
        scratch: bytes,
        read: &[],
        segments,
        total: bytes.len(),
        messages: 1,
        message_bytes: 0,
        bodies: &mut [],
    }
}

/// The peer reads until nothing comes any more; an owner who is told of no edge does nothing.
fn drain_to_the_end(output: &Output, wire: &Wire) {
    while wire.drain(1 << 40) {
        assert_eq!(output.writable(wire), Delivered::Yes);
    }
}

/// All arrived, each thread's bytes in its order, and nothing waits that nobody will write.
fn check_arrived(output: &Output, wire: &Wire, threads: &[&[u8]]) {
    drain_to_the_end(output, wire);
    let taken = wire.taken();
    let text = String::from_utf8_lossy(&taken).into_owned();
    assert_eq!(output.pending_bytes(), 0, "waits without an edge to come: {text}");
    assert_eq!(taken.len(), threads.iter().map(|bytes| bytes.len()).sum::<usize>(), "{text}");
    for bytes in threads {
        let own: Vec<u8> = taken.iter().copied().filter(|byte| bytes.contains(byte)).collect();
        assert_eq!(own, *bytes, "out of order: {text}");
    }
}

#[test]
fn two_that_deliver_and_an_owner_lose_no_byte_and_no_edge() {
    model(|| {
        let (output, wire) = (Arc::new(Output::default()), Wire::new(1));
        let publisher = |bytes: &'static [u8]| {
            let (output, wire) = (output.clone(), wire.clone());
            thread::spawn(move || assert_eq!(deliver(&output, &wire, bytes), Delivered::Yes))
        };
        let threads = [publisher(b"ab"), publisher(b"xy")];
        if wire.drain(1) {
            output.writable(&wire);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        check_arrived(&output, &wire, &[b"ab", b"xy"]);
    });
}

#[test]
fn what_is_put_off_is_written_by_its_flush_or_by_whoever_writes_meanwhile() {
    model(|| {
        let (output, wire) = (Arc::new(Output::default()), Wire::new(2));
        let (other, its_wire) = (output.clone(), wire.clone());
        let thread = thread::spawn(move || {
            for bytes in [b"a", b"b"] {
                if defer(&other, bytes) {
                    assert_eq!(other.flush(&its_wire), Delivered::Yes);
                }
            }
        });
        deliver(&output, &wire, b"xy");
        if wire.drain(1) {
            output.writable(&wire);
        }
        thread.join().unwrap();
        check_arrived(&output, &wire, &[b"ab", b"xy"]);
    });
}

#[test]
fn two_that_put_off_flush_once_or_twice_but_never_not() {
    model(|| {
        let (output, wire) = (Arc::new(Output::default()), Wire::new(8));
        let publisher = |bytes: &'static [u8]| {
            let (output, wire) = (output.clone(), wire.clone());
            thread::spawn(move || {
                if defer(&output, bytes) {
                    output.flush(&wire);
                }
            })
        };
        let threads = [publisher(b"ab"), publisher(b"xy")];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // nobody ran out of room, so no edge comes: all must be out by itself
        assert_eq!((output.pending_bytes(), wire.taken().len()), (0, 4));
    });
}

#[test]
fn a_close_leaves_nothing_and_lets_nothing_in() {
    model(|| {
        let (output, wire) = (Arc::new(Output::default()), Wire::new(1));
        let (other, its_wire) = (output.clone(), wire.clone());
        let publisher = thread::spawn(move || {
            deliver(&other, &its_wire, b"ab");
            if other.push(b"cd") {
                other.flush(&its_wire);
            }
        });
        output.close();
        publisher.join().unwrap();
        assert_eq!(output.pending_bytes(), 0);
        assert_eq!(deliver(&output, &wire, b"x"), Delivered::Closed);
        assert!(!output.push(b"x"));
    });
}

struct NoBell;

impl Wake for NoBell {
    fn wake(&self) {}
}

fn link(id: u64, wire: &Wire) -> Arc<Link> {
    Arc::new(Link::new(LinkParts {
        id,
        index: id as u32,
        kind: LinkKind::Client,
        token: 0,
        owner: Arc::new(Mailbox::new(Box::new(NoBell))),
        transport: Box::new(wire.clone()),
        about: Default::default(),
    }))
}

static BULK: [u8; HIGH_BYTES] = [b'.'; HIGH_BYTES];

/// Delivers as many bytes as congest a link, by reference, and pauses the publisher as the router does.
fn deliver_bulk(receiver: &Arc<Link>, publisher: &Arc<Link>) {
    let segments = [Segment::Body(0, 0, BULK.len() as u32)];
    let mut rendering = Rendering {
        scratch: &[],
        read: &BULK,
        segments: &segments,
        total: BULK.len(),
        messages: 1,
        message_bytes: 0,
        bodies: &mut [Some(Bytes::from_static(&BULK))],
    };
    match receiver.output.deliver(&*receiver.transport, &mut rendering, usize::MAX) {
        Delivered::Yes => receiver.release_if_drained(),
        Delivered::Closed => {}
        other => panic!("{other:?}"),
    }
    receiver.pause_if_congested(publisher, 1, usize::MAX, &std::sync::atomic::AtomicBool::new(true));
}

/// A worker leaves a paused link alone until a `Resume` comes: one must be there.
fn check_resumed(publisher: &Link, seen_paused: bool) {
    assert!(!publisher.is_paused(), "paused for ever");
    let resumed = publisher.owner.take().iter().any(|command| matches!(command, Command::Resume(_)));
    assert!(!seen_paused || resumed, "paused, and nobody tells its owner that it is over");
}

#[test]
fn a_publisher_paused_for_a_full_reader_goes_on_when_it_was_read() {
    model(|| {
        let (wire, silent) = (Wire::new(0), Wire::new(0));
        let (receiver, publisher) = (link(1, &wire), link(2, &silent));
        let (to, from) = (receiver.clone(), publisher.clone());
        let worker = thread::spawn(move || {
            deliver_bulk(&to, &from);
            from.is_paused()
        });
        let read_all = || {
            while wire.drain(1 << 40) {
                receiver.output.writable(&wire);
                receiver.release_if_drained();
            }
        };
        read_all();
        let seen_paused = worker.join().unwrap();
        read_all();
        assert_eq!(receiver.output.pending_bytes(), 0);
        check_resumed(&publisher, seen_paused);
    });
}

#[test]
fn a_publisher_paused_for_a_reader_that_is_closed_goes_on() {
    model(|| {
        let (wire, silent) = (Wire::new(0), Wire::new(0));
        let (receiver, publisher) = (link(1, &wire), link(2, &silent));
        let (to, from) = (receiver.clone(), publisher.clone());
        let worker = thread::spawn(move || {
            deliver_bulk(&to, &from);
            from.is_paused()
        });
        receiver.close(CloseReason::SlowConsumerPendingBytes);
        let seen_paused = worker.join().unwrap();
        assert_eq!(receiver.output.pending_bytes(), 0);
        check_resumed(&publisher, seen_paused);
    });
}

#[test]
fn a_command_left_while_the_owner_looks_rings_again() {
    // a system call: it has an order of its own
    struct Bell(Arc<sync::Mutex<bool>>);
    impl Wake for Bell {
        fn wake(&self) {
            *self.0.lock() = true;
        }
    }
    model(|| {
        let rung = Arc::new(sync::Mutex::new(false));
        let mailbox = Arc::new(Mailbox::new(Box::new(Bell(rung.clone()))));
        let posting = mailbox.clone();
        let other = thread::spawn(move || {
            posting.post(Command::Writable(1));
            posting.post(Command::Writable(2));
        });
        let wake = || if std::mem::take(&mut *rung.lock()) { mailbox.take().len() } else { 0 };
        let mut found = wake();
        other.join().unwrap();
        found += wake();
        assert_eq!(found, 2, "a command waits and nobody was woken");
    });
}

#[test]
fn a_maximum_set_while_messages_are_delivered_ends_the_subscription_all_the_same() {
    model(|| {
        let progress = Arc::new(Progress::default());
        let other = progress.clone();
        let worker = thread::spawn(move || {
            let (first, first_last) = other.take(1);
            let (second, second_last) = other.take(1);
            (first + second, first_last || second_last)
        });
        let over = progress.limit(1);
        let (granted, last) = worker.join().unwrap();
        assert!(over || last, "the maximum was passed and nobody noticed");
        assert!(progress.is_spent() || over);
        assert!(granted >= 1);
        assert_eq!(progress.take(1).0, if progress.is_spent() { 0 } else { 1 });
    });
}
