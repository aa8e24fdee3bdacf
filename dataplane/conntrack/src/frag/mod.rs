//! How are fragments tracked?
//!
//! [`Fragments`] holds fragments back until all of a datagram are there. Then it gives them out
//! again, as they came and in the order they came, with a copy of the whole datagram beside them:
//! the copy is what the tracker reads, the fragments are what is sent on, each changed by
//! [`crate::nat::apply_fragment`].
//!
//! Fixed in memory: datagrams, fragments and bytes have limits, and what is over them pushes the
//! oldest datagram out. Fragments that overlap poison their datagram (RFC 5722, done for IPv4
//! too): what is there is dropped, and what still comes until its time is over. An exact
//! duplicate alone is dropped alone. So is a first fragment without its whole L4 header
//! (RFC 1858).
//!
//! One owner: a worker has its own, or several share one behind a lock. Handles may be anything;
//! those of dropped fragments are given back.

mod parse;

use std::collections::{HashMap, VecDeque};

use flow::extract::Offsets;

use crate::entry::Millis;
use parse::{Fragment, Head, Key};

/// Limits of what is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragLimits {
    /// Datagrams that are not whole yet.
    pub datagrams: usize,
    /// Fragments of one datagram.
    pub fragments: usize,
    /// Fragments of all datagrams together.
    pub all: usize,
    /// Bytes of payload, of all datagrams together.
    pub bytes: usize,
    /// Milliseconds from a datagram's first fragment to come until it is given up.
    pub timeout: u64,
}

impl Default for FragLimits {
    fn default() -> Self {
        FragLimits { datagrams: 1024, fragments: 128, all: 4096, bytes: 4 << 20, timeout: 30_000 }
    }
}

/// Why fragments were dropped, counted in fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragCounts {
    /// Fragments that were held back or completed a datagram.
    pub taken: u64,
    /// Datagrams that became whole.
    pub whole: u64,
    /// No sound fragment: lengths that lie, beyond 65,535 bytes, not a multiple of 8.
    pub malformed: u64,
    /// The datagram's parts overlap or contradict each other.
    pub overlap: u64,
    /// The same fragment again.
    pub duplicate: u64,
    /// The first fragment has not all of the L4 header.
    pub tiny: u64,
    /// The datagram was not whole in time.
    pub timeout: u64,
    /// Pushed out, or too many of one datagram.
    pub limit: u64,
}

/// A datagram that is whole.
#[derive(Debug)]
pub struct Whole<T> {
    /// Its fragments, in the order they came.
    pub fragments: Vec<T>,
    /// The frame that the fragments were of: the first fragment's headers, not a fragment any
    /// more, and the whole payload.
    pub frame: Vec<u8>,
}

/// A datagram of which fragments are there.
struct Partial<T> {
    handles: Vec<T>,
    /// Parts that are there, as offset and end, sorted.
    parts: Vec<(u32, u32)>,
    payload: Vec<u8>,
    head: Option<Head>,
    /// Length of the payload, once the last fragment has told it.
    total: Option<u32>,
    /// Bytes of payload that are there.
    have: u32,
    poisoned: bool,
    born: u64,
    deadline: Millis,
}

/// Fragments that are held back.
pub struct Fragments<T> {
    limits: FragLimits,
    datagrams: HashMap<Key, Partial<T>>,
    /// Datagrams by age; those that are gone are passed over.
    order: VecDeque<(Key, u64)>,
    born: u64,
    bytes: usize,
    /// Fragments that are held.
    waiting: usize,
    counts: FragCounts,
}

/// What a fragment does to its datagram.
enum Fit {
    New,
    Duplicate,
    Overlap,
}

impl<T> Fragments<T> {
    /// Nothing held back.
    pub fn new(limits: FragLimits) -> Fragments<T> {
        Fragments {
            limits,
            datagrams: HashMap::new(),
            order: VecDeque::new(),
            born: 0,
            bytes: 0,
            waiting: 0,
            counts: FragCounts::default(),
        }
    }

    /// What has happened.
    pub fn counts(&self) -> FragCounts {
        self.counts
    }
    /// Datagrams that are not whole yet, and bytes that are held for them.
    pub fn held(&self) -> (usize, usize) {
        (self.datagrams.len(), self.bytes)
    }

    /// Take a fragment of a zone: `frame` is all of its bytes, `off` where its headers are,
    /// `handle` what is given back. With the last one missing the whole datagram is returned.
    /// Handles of fragments that are dropped go to `dropped`.
    pub fn add(
        &mut self,
        now: Millis,
        zone: u16,
        frame: &[u8],
        off: &Offsets,
        handle: T,
        dropped: &mut dyn FnMut(T),
    ) -> Option<Whole<T>> {
        self.expire(now, dropped);
        let Some((key, f)) = parse::read(zone, frame, off) else {
            self.counts.malformed += 1;
            dropped(handle);
            return None;
        };
        if !self.datagrams.contains_key(&key) {
            self.begin(now, key, dropped);
        }
        let d = self.datagrams.get_mut(&key)?;
        if d.poisoned {
            self.counts.overlap += 1;
            dropped(handle);
            return None;
        }
        match d.fit(&f) {
            Fit::Duplicate => {
                self.counts.duplicate += 1;
                dropped(handle);
                return None;
            }
            Fit::Overlap => {
                self.counts.overlap += 1;
                dropped(handle);
                let n = self.poison(&key, dropped);
                self.counts.overlap += n;
                return None;
            }
            Fit::New => {}
        }
        if d.handles.len() >= self.limits.fragments {
            self.counts.limit += 1;
            dropped(handle);
            let n = self.poison(&key, dropped);
            self.counts.limit += n;
            return None;
        }
        self.bytes += d.put(&f, frame, handle);
        self.waiting += 1;
        self.counts.taken += 1;
        if d.total == Some(d.have) && d.head.is_some() {
            return self.complete(&key, dropped);
        }
        let limits = self.limits;
        while (self.bytes > limits.bytes || self.waiting > limits.all) && self.push_out(dropped) {}
        None
    }

    fn begin(&mut self, now: Millis, key: Key, dropped: &mut dyn FnMut(T)) {
        while self.datagrams.len() >= self.limits.datagrams.max(1) && self.push_out(dropped) {}
        // Those that became whole behind an older one that did not.
        if self.order.len() > 4 * self.limits.datagrams + 16 {
            let all = &self.datagrams;
            self.order.retain(|(key, born)| all.get(key).is_some_and(|d| d.born == *born));
        }
        self.born += 1;
        self.order.push_back((key, self.born));
        self.datagrams.insert(key, Partial::new(self.born, now.plus(self.limits.timeout)));
    }

    /// Drop the oldest datagram. Whether there was one.
    fn push_out(&mut self, dropped: &mut dyn FnMut(T)) -> bool {
        while let Some((key, born)) = self.order.pop_front() {
            if self.datagrams.get(&key).is_some_and(|d| d.born == born) {
                self.counts.limit += self.remove(&key, dropped);
                return true;
            }
        }
        false
    }

    /// Drop datagrams whose time is over. To be called now and then, also without traffic.
    pub fn expire(&mut self, now: Millis, dropped: &mut dyn FnMut(T)) {
        while let Some((key, born)) = self.order.front().copied() {
            match self.datagrams.get(&key) {
                Some(d) if d.born == born && d.deadline > now => return,
                Some(d) if d.born == born => {
                    self.counts.timeout += self.remove(&key, dropped);
                }
                _ => {}
            }
            self.order.pop_front();
        }
    }

    /// Drop all that is held, and what still comes of the datagram. How many were dropped.
    fn poison(&mut self, key: &Key, dropped: &mut dyn FnMut(T)) -> u64 {
        let Some(d) = self.datagrams.get_mut(key) else { return 0 };
        d.poisoned = true;
        self.bytes -= d.payload.len();
        d.payload = Vec::new();
        d.parts = Vec::new();
        d.head = None;
        let handles = std::mem::take(&mut d.handles);
        self.waiting -= handles.len();
        let n = handles.len() as u64;
        handles.into_iter().for_each(dropped);
        n
    }

    fn remove(&mut self, key: &Key, dropped: &mut dyn FnMut(T)) -> u64 {
        let Some(d) = self.datagrams.remove(key) else { return 0 };
        self.bytes -= d.payload.len();
        self.waiting -= d.handles.len();
        let n = d.handles.len() as u64;
        d.handles.into_iter().for_each(dropped);
        n
    }

    fn complete(&mut self, key: &Key, dropped: &mut dyn FnMut(T)) -> Option<Whole<T>> {
        let d = self.datagrams.remove(key)?;
        self.bytes -= d.payload.len();
        self.waiting -= d.handles.len();
        let first = d.parts.first().map_or(0, |p| p.1 as usize);
        match d.head.and_then(|head| parse::assemble(head, &d.payload, first)) {
            Some(frame) => {
                self.counts.whole += 1;
                Some(Whole { fragments: d.handles, frame })
            }
            None => {
                self.counts.tiny += d.handles.len() as u64;
                d.handles.into_iter().for_each(dropped);
                None
            }
        }
    }
}

impl<T> Partial<T> {
    fn new(born: u64, deadline: Millis) -> Partial<T> {
        Partial {
            handles: Vec::new(),
            parts: Vec::new(),
            payload: Vec::new(),
            head: None,
            total: None,
            have: 0,
            poisoned: false,
            born,
            deadline,
        }
    }

    fn fit(&self, f: &Fragment) -> Fit {
        let end = f.offset + f.len;
        if self.parts.iter().any(|(from, to)| *from == f.offset && *to == end) {
            return Fit::Duplicate;
        }
        let beyond = self.total.is_some_and(|t| end > t || !f.more);
        let behind = !f.more && self.parts.last().is_some_and(|p| p.1 > end);
        let overlaps = self.parts.iter().any(|(from, to)| *from < end && f.offset < *to);
        if beyond || behind || overlaps { Fit::Overlap } else { Fit::New }
    }

    /// Put a fragment in its place. How much longer the payload has become.
    fn put(&mut self, f: &Fragment, frame: &[u8], handle: T) -> usize {
        let before = self.payload.len();
        let (from, end) = (f.offset as usize, (f.offset + f.len) as usize);
        if self.payload.len() < end {
            self.payload.resize(end, 0);
        }
        self.payload[from..end].copy_from_slice(&frame[f.at..f.at + f.len as usize]);
        let place = self.parts.partition_point(|p| p.0 < f.offset);
        self.parts.insert(place, (f.offset, f.offset + f.len));
        self.have += f.len;
        if !f.more {
            self.total = Some(f.offset + f.len);
        }
        if let Some(head) = &f.head {
            self.head = Some(head.clone());
        }
        self.handles.push(handle);
        self.payload.len() - before
    }
}
