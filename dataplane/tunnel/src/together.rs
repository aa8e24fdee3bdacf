//! How are the same outer headers put in front of many packets?
//!
//! Packets that follow each other through a tunnel are mostly of one length, and then their outer headers
//! differ in no more than the source port: all else is written into the template once
//! ([`Encap::filled_in`]), which is copied in front of each. That goes for IPv4 that may not be fragmented
//! (its identification is 0), without a checksum over what is inside and without numbers
//! ([`Encap::is_same_for_all`]), and for packets of which no checksum or segmentation is left to do. All
//! others take the general way, [`Encap::push`].
//!
//! Invariant: the bytes are those of [`Encap::push`].

use afxdp::Packet;

use crate::config::Kind;
use crate::encap::{Encap, IPV4_CHECKSUM, IPV4_LENGTH, L3, Sender, put16, source_port};

/// Bytes of a template: more than the longest IPv4 header has.
const BLOCK: usize = 64;
/// From the UDP header to the end: UDP and VXLAN, or UDP and Geneve.
const UDP: usize = 16;

impl Encap {
    /// Put the outer headers in front of packets that are no longer than `max_frame` bytes; how many have
    /// them. If that is not all, the next one is too long or fails as [`Encap::push`] says, and it and
    /// those behind it are unchanged, but for a checksum that is finished now. `hash` says the flow's of the
    /// packet with that number, as for [`Encap::push`].
    #[inline(always)]
    pub fn push_all(
        &self,
        packets: &mut [Packet],
        max_frame: usize,
        hash: impl Fn(usize) -> u64,
        sender: &mut Sender,
    ) -> usize {
        let mut done = 0;
        while let Some(first) = packets.get_mut(done) {
            let len = first.len();
            if len > max_frame {
                break;
            }
            let more = match self.filled_in(len) {
                Some(block) if self.kind == Kind::Gre => {
                    self.put(&block, len, &mut packets[done..], |_, _| ())
                }
                Some(block) => self.put(&block, len, &mut packets[done..], |header, i| {
                    put16(header, BLOCK - UDP, source_port(hash(done + i)));
                }),
                None => 0,
            };
            done += more;
            if more == 0 {
                // It is to be finished first, or has little room in front.
                if self.push(&mut packets[done], hash(done), sender).is_err() {
                    break;
                }
                done += 1;
            }
        }
        done
    }

    /// Put a header in front of those packets up to the first that is not plain, not of that length, or has
    /// little room in front; how many. `finish` writes what is each packet's own.
    #[inline(always)]
    fn put(
        &self,
        block: &[u8; BLOCK],
        len: usize,
        packets: &mut [Packet],
        finish: impl Fn(&mut [u8; BLOCK], usize),
    ) -> usize {
        let (n, mut done) = (self.overhead().min(BLOCK), 0);
        for packet in packets {
            if packet.len() != len || !packet.is_plain() {
                break;
            }
            let Ok(header) = packet.push_front_block(block, n) else { break };
            finish(header, done);
            done += 1;
        }
        done
    }

    /// The template for packets of that length, with all that does not differ from one to the other, at its
    /// end; `None` if there is more that does than a UDP source port, or no IP packet can hold one.
    #[inline]
    fn filled_in(&self, len: usize) -> Option<[u8; BLOCK]> {
        let ip_length = u16::try_from(len + self.overhead() - L3).ok()?;
        if !self.is_same_for_all() {
            return None;
        }
        let mut block = *self.block.last_chunk()?;
        let at = BLOCK - self.overhead();
        let header = block.get_mut(at..)?;
        let l4 = L3 + 20;
        let mut fill = |at: usize, value: u16| {
            if let Some(field) = header.get_mut(at..).and_then(|h| h.first_chunk_mut()) {
                *field = value.to_be_bytes();
            }
        };
        fill(IPV4_LENGTH, ip_length);
        fill(IPV4_CHECKSUM, self.ipv4_checksum(ip_length, 0));
        if self.kind != Kind::Gre {
            fill(l4 + 4, ip_length - 20);
        }
        Some(block)
    }
}
