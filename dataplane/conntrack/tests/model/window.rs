//! Two hosts that talk TCP, and a tracker of their numbers that is written to be read: numbers
//! are 64 bits wide, begin at 0 for each side, and never wrap.

#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub reply: bool,
    pub flags: u8,
    pub seq: i64,
    pub ack: i64,
    pub len: i64,
    pub win: i64,
}

impl Sent {
    fn end(&self) -> i64 {
        let counted = i64::from(self.flags & 2 != 0) + i64::from(self.flags & 1 != 0);
        self.seq + self.len + counted
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Valid,
    Late,
    Invalid,
}

/// What the tracker knows of a side.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    heard: bool,
    /// The highest number it has sent.
    end: i64,
    /// The highest number the other side allows it to send.
    allowed: i64,
    /// The largest window it has offered.
    window: i64,
}

/// What a host knows.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    next: i64,
    /// All before this has come.
    got: i64,
    /// What the other side allows it to send.
    allowed: i64,
    last: Option<Sent>,
}

pub struct Talk {
    sides: [Side; 2],
    hosts: [Host; 2],
}

const WINDOW: i64 = 8192;
const SYN: u8 = 2;
const ACK: u8 = 16;

impl Talk {
    pub fn new() -> Talk {
        Talk { sides: Default::default(), hosts: Default::default() }
    }

    fn make(&self, reply: bool, flags: u8, seq: i64, len: i64) -> Sent {
        let ack = self.hosts[usize::from(reply)].got;
        Sent { reply, flags, seq, ack, len, win: WINDOW }
    }

    pub fn handshake(&mut self) -> [Sent; 3] {
        let h = &mut self.hosts;
        h[0] = Host { next: 1, got: 0, allowed: 0, last: None };
        h[1] = Host { next: 1, got: 0, allowed: 0, last: None };
        [
            Sent { reply: false, flags: SYN, seq: 0, ack: 0, len: 0, win: WINDOW },
            Sent { reply: true, flags: SYN | ACK, seq: 0, ack: 1, len: 0, win: WINDOW },
            Sent { reply: false, flags: ACK, seq: 1, ack: 1, len: 0, win: WINDOW },
        ]
    }

    /// New data, as much as the other side allows.
    pub fn data(&mut self, reply: bool, len: i64) -> Sent {
        let h = self.hosts[usize::from(reply)];
        let len = len.min(h.allowed - h.next).max(0);
        let s = self.make(reply, ACK, h.next, len);
        let h = &mut self.hosts[usize::from(reply)];
        h.next += len;
        h.last = Some(s);
        s
    }

    pub fn acknowledge(&mut self, reply: bool) -> Sent {
        let next = self.hosts[usize::from(reply)].next;
        self.make(reply, ACK, next, 0)
    }

    /// The last data again, with what is acknowledged by now.
    pub fn again(&self, reply: bool) -> Option<Sent> {
        let h = self.hosts[usize::from(reply)];
        h.last.map(|s| Sent { ack: h.got, ..s })
    }

    /// What no host has sent: off by so much from a number that matters.
    pub fn forged(&self, reply: bool, len: i64, which: u8, seq_off: i64, ack_off: i64) -> Sent {
        let (me, other) = (&self.sides[usize::from(reply)], &self.sides[usize::from(!reply)]);
        let len = len.max(1);
        let from = match which % 3 {
            0 => self.hosts[usize::from(reply)].next,
            1 => me.allowed,
            _ => me.end - other.window - len,
        };
        let mut s = self.make(reply, ACK, from + seq_off, len);
        s.ack = match which % 2 {
            0 => other.end,
            _ => other.end - me.window.max(66_000),
        } + ack_off;
        s
    }

    /// A segment comes to the other host.
    pub fn deliver(&mut self, s: &Sent) {
        let h = &mut self.hosts[usize::from(!s.reply)];
        if s.seq <= h.got {
            h.got = h.got.max(s.end());
        }
        if s.flags & ACK != 0 {
            h.allowed = h.allowed.max(s.ack + s.win);
        }
    }

    /// What the tracker should think of a segment, and what it learns by it.
    pub fn judge(&mut self, s: &Sent) -> Verdict {
        let (i, o) = (usize::from(s.reply), usize::from(!s.reply));
        let (mut sender, mut receiver) = (self.sides[i], self.sides[o]);
        let end = s.end();
        if !sender.heard {
            sender = Side { heard: true, end, allowed: end, window: s.win };
        }
        let ack = if s.flags & ACK != 0 { s.ack } else { receiver.end };
        if ack > receiver.end {
            return Verdict::Invalid;
        }
        let too_old = receiver.heard && end < sender.end - receiver.window;
        let late = too_old || ack < receiver.end - sender.window.max(66_000);
        if s.seq > sender.allowed {
            // Some hosts send more than they are allowed to.
            let little = receiver.heard && end - sender.allowed < receiver.window;
            if late || !little {
                return Verdict::Invalid;
            }
            self.sides[i] = Side { end, ..sender };
            return Verdict::Valid;
        }
        if late {
            return Verdict::Late;
        }
        sender.window = sender.window.max(s.win);
        if receiver.heard {
            receiver.window += (end - sender.allowed).max(0);
        }
        sender.end = sender.end.max(end);
        receiver.allowed = receiver.allowed.max(ack + s.win);
        self.sides[i] = sender;
        self.sides[o] = receiver;
        Verdict::Valid
    }
}
