//! What has happened in the tracker?
//!
//! Counters of events, each in several copies so that workers do not share a cache line; none of
//! them is touched by a packet of an established connection.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::input::Invalid;

macro_rules! events {
    ($($id:ident $name:literal $text:literal;)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Event { $(#[doc = $text] $id,)* }

        impl Event {
            /// Every event.
            pub const ALL: &'static [Event] = &[$(Event::$id,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            const NAMES: &'static [&'static str] = &[$($name,)*];
            const TEXTS: &'static [&'static str] = &[$($text,)*];

            /// The short name, stable for programs.
            pub const fn name(self) -> &'static str { Self::NAMES[self as usize] }
            /// A sentence a person understands.
            pub const fn text(self) -> &'static str { Self::TEXTS[self as usize] }
        }
    };
}

events! {
    Inserted "inserted" "A connection was made.";
    Expired "expired" "A connection's time was over.";
    Flushed "flushed" "A connection was taken out by command.";
    Closed "closed" "A connection was reset before it was answered, or made anew by its hosts.";
    Replaced "replaced" "A commit with `force` made the reply direction the original one.";
    EvictedClosed "evicted_closed" "The table was full: a closed connection made room.";
    EvictedUnanswered "evicted_unanswered" "The table was full: an unanswered connection made room.";
    EvictedOpening "evicted_opening" "The table was full: a half-open connection made room.";
    Clash "clash" "Two packets began the same connection at once, and one of them made it.";
    FullTable "full_table" "A new connection was refused: the table was full of established ones.";
    FullZone "full_zone" "A new connection was refused: its zone's limit is reached.";
    FullIndex "full_index" "A new connection was refused: no place in the index near its hash.";
    Exhausted "exhausted" "A new connection was refused: no translated address and port was free.";
    WrongFamily "wrong_family" "A new connection was refused: translation to the other IP version.";
    PortChanged "port_changed" "A translated connection got another port than its own.";
}

const STRIPES: usize = 8;
const COUNTS: usize = Event::COUNT + Invalid::ALL.len();

#[repr(align(128))]
struct Stripe([AtomicU64; COUNTS]);

/// All counters.
pub(crate) struct Counters(Box<[Stripe]>);

impl Counters {
    pub(crate) fn new() -> Counters {
        let stripe = |_| Stripe(std::array::from_fn(|_| AtomicU64::new(0)));
        Counters((0..STRIPES).map(stripe).collect())
    }

    /// Count an event; `stripe` is anything that differs between workers or packets.
    #[inline]
    pub(crate) fn count(&self, stripe: u64, e: Event) {
        self.add(stripe, e as usize);
    }

    #[inline]
    pub(crate) fn invalid(&self, stripe: u64, why: Invalid) {
        self.add(stripe, Event::COUNT + why as usize);
    }

    #[inline(always)]
    fn add(&self, stripe: u64, i: usize) {
        self.0[stripe as usize % STRIPES].0[i].fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self, i: usize) -> u64 {
        self.0.iter().map(|s| s.0[i].load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn get(&self, e: Event) -> u64 {
        self.sum(e as usize)
    }

    pub(crate) fn get_invalid(&self, why: Invalid) -> u64 {
        self.sum(Event::COUNT + why as usize)
    }
}
