//! A tracker of connections that is a list: looked through from the front for each packet.

/// What names a packet's direction. For ICMP both ports are the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub proto: u8,
    pub src: (u32, u16),
    pub dst: (u32, u16),
    /// Of ICMP: an echo reply.
    pub answer: bool,
}

impl Key {
    pub fn new(proto: u8, src: (u32, u16), dst: (u32, u16)) -> Key {
        let dst = if proto == 1 { (dst.0, src.1) } else { dst };
        Key { proto, src, dst, answer: false }
    }
    fn back(&self) -> Key {
        Key { proto: self.proto, src: self.dst, dst: self.src, answer: !self.answer }
    }
    fn same(&self, other: &Key) -> bool {
        // UDP's packets do not say which direction they are.
        let kind = self.proto == 17 || self.answer == other.answer;
        kind && self.proto == other.proto && self.src == other.src && self.dst == other.dst
    }
}

pub enum Want {
    Lookup,
    Plain,
    /// To that address, with ports from a range.
    Snat(u32, (u16, u16)),
}

#[derive(Clone, Debug)]
struct Conn {
    orig: Key,
    /// As answers come in.
    reply: Key,
    answered: bool,
    made: u64,
    until: u64,
    mark: u32,
}

#[derive(Default)]
pub struct Model {
    pub now: u64,
    conns: Vec<Conn>,
}

impl Model {
    fn drop_expired(&mut self) {
        let now = self.now;
        self.conns.retain(|c| c.until > now);
    }

    pub fn living(&mut self) -> usize {
        self.drop_expired();
        self.conns.len()
    }

    fn find(&mut self, key: &Key) -> Option<(&mut Conn, bool)> {
        self.drop_expired();
        for c in &mut self.conns {
            if c.orig.same(key) {
                return Some((c, false));
            }
            if c.reply.same(key) {
                return Some((c, true));
            }
        }
        None
    }

    /// `ct(nat)`: state, mark, and for an answer the packet as its receiver knows it.
    pub fn lookup(&mut self, key: &Key) -> (String, u32, Option<Key>) {
        let now = self.now;
        let Some((c, reply)) = self.find(key) else {
            let state = if key.proto == 1 && key.answer { "inv|trk" } else { "new|trk" };
            return (state.into(), 0, None);
        };
        c.answered |= reply;
        let lives = match (c.orig.proto, c.answered) {
            (1, _) => 60,
            (_, true) if now - c.made > 2000 => 180,
            (_, _) => 120,
        };
        // A stream stays one, and times are kept in steps of 256 ms, rounded up.
        c.until = ((now + lives * 1000) / 256 + 1) * 256;
        let changed = !c.reply.same(&c.orig.back());
        let mut state = String::from(if c.answered { "est" } else { "new" });
        if reply {
            state += "|rpl";
        }
        state += "|trk";
        if changed {
            state += if reply { "|dnat" } else { "|snat" };
        }
        (state, c.mark, reply.then(|| c.orig.back()))
    }

    /// A commit that was not refused: state and mark that it should have shown. `sent` is the
    /// packet as it left; of a new connection it tells what was chosen, which is checked here.
    pub fn commit(
        &mut self,
        key: &Key,
        want: &Want,
        mark: (u32, u32),
        unchanged: bool,
        sent: &[u8],
    ) -> Result<(String, u32), String> {
        if self.find(key).is_some() {
            let (mut state, _, _) = self.lookup(key);
            if !matches!(want, Want::Snat(..)) {
                state = state.replace("|snat", "").replace("|dnat", "");
            }
            let (c, _) = self.find(key).ok_or("gone")?;
            c.mark = c.mark & !mark.1 | mark.0 & mark.1;
            return Ok((state, c.mark));
        }
        if key.answer {
            return Ok(("inv|trk".into(), 0));
        }
        let src = u32::from_be_bytes([sent[26], sent[27], sent[28], sent[29]]);
        let at = if key.proto == 1 { 38 } else { 34 };
        let port = u16::from_be_bytes([sent[at], sent[at + 1]]);
        let mut out = *key;
        out.src = (src, port);
        if key.proto == 1 {
            out.dst.1 = port;
        }
        match want {
            Want::Snat(address, ports) => {
                if src != *address || !(ports.0..=ports.1).contains(&port) {
                    return Err(format!("{key:?} became {out:?}"));
                }
                let own = Key { src: (src, key.src.1), ..*key };
                if port != key.src.1
                    && (ports.0..=ports.1).contains(&key.src.1)
                    && !self.taken(&own.back())
                {
                    return Err(format!("{key:?} did not keep its port: {out:?}"));
                }
            }
            _ if out != *key || !unchanged => return Err(format!("{key:?} became {out:?}")),
            _ => {}
        }
        if self.taken(&out.back()) {
            return Err(format!("{out:?}: given twice"));
        }
        let lives = if key.proto == 1 { 60 } else { 120 };
        let mark = mark.0 & mark.1;
        self.conns.push(Conn {
            orig: *key,
            reply: out.back(),
            answered: false,
            made: self.now,
            until: ((self.now + lives * 1000) / 256 + 1) * 256,
            mark,
        });
        let snat = out.src != key.src;
        Ok((format!("new|trk{}", if snat { "|snat" } else { "" }), mark))
    }

    fn taken(&mut self, reply: &Key) -> bool {
        self.find(reply).is_some()
    }

    /// Whether a commit may be refused: all that it could be translated to is taken.
    pub fn may_refuse(&mut self, key: &Key, want: &Want) -> bool {
        let candidates: Vec<Key> = match want {
            Want::Snat(address, ports) => (ports.0..=ports.1)
                .map(|p| {
                    let dst = if key.proto == 1 { (key.dst.0, p) } else { key.dst };
                    Key { src: (*address, p), dst, ..*key }
                })
                .collect(),
            _ => vec![*key],
        };
        candidates.iter().all(|k| self.taken(&k.back()))
    }

    /// An answer to one of the connections there are or were.
    pub fn some_answer(&self, n: usize) -> Option<Key> {
        let c = self.conns.get(n % self.conns.len().max(1))?;
        Some(c.reply)
    }

    pub fn flush(&mut self, sport: u16) -> usize {
        self.drop_expired();
        let before = self.conns.len();
        self.conns.retain(|c| c.orig.src.1 != sport);
        before - self.conns.len()
    }
}
