//! What has a queue received, sent and dropped?
//!
//! One [`QueueCounters`] per queue. Only the worker that owns the queue writes; control reads
//! without stopping it, so a sum over several counters is not of one instant. They outlive the
//! queue: a port that is reopened goes on counting where it was.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

flow::reasons! {
    /// Why a port dropped a packet.
    PortDrop {
        RxNoFrame "rx_no_frame" "A packet came and no free frame was left for it.";
        RxRingFull "rx_ring_full" "The kernel dropped packets: the receive ring was full.";
        RxFillEmpty "rx_fill_empty" "The kernel dropped packets: it had no free frame to put them into.";
        RxKernel "rx_kernel" "The kernel dropped packets on receive, for another reason.";
        RxTooBig "rx_too_big" "A received packet was larger than the switch can carry.";
        RxRunt "rx_runt" "A received packet had no bytes, or the device gave less than its own header.";
        RxOffload "rx_offload" "A received packet asked for an offload that was not agreed on.";
        RxBroken "rx_broken" "A received packet of several buffers had no end.";
        TxFull "tx_full" "The transmit ring, or the device's queue, was full.";
        TxDown "tx_down" "The interface was down.";
        TxTooBig "tx_too_big" "The packet was larger than the interface's MTU allows.";
        TxSegmentation "tx_segmentation" "The port cannot cut a packet into segments.";
        TxInvalid "tx_invalid" "The kernel did not accept the packet.";
        TxRefused "tx_refused" "The driver threw the packet away: too big, or no room at the other end.";
        TxError "tx_error" "Sending failed for another reason.";
        TxReceiveOnly "tx_receive_only" "The port only receives.";
        Gone "gone" "The interface was gone.";
    }
}

macro_rules! counters {
    ($($field:ident $text:literal;)*) => {
        /// Counters of one queue; written by the worker that owns it.
        #[derive(Debug, Default)]
        pub struct QueueCounters {
            $(#[doc = $text] pub $field: AtomicU64,)*
            drops: [AtomicU64; PortDrop::COUNT],
        }

        /// Counters read at some moment; of one queue, or added up over those of a port.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct PortCounters {
            $(#[doc = $text] pub $field: u64,)*
            /// Dropped packets by reason, in the order of [`PortDrop::ALL`].
            pub drops: [u64; PortDrop::COUNT],
        }

        impl QueueCounters {
            /// What they are now.
            pub fn read(&self) -> PortCounters {
                PortCounters {
                    $($field: self.$field.load(Ordering::Relaxed),)*
                    drops: std::array::from_fn(|i| self.drops[i].load(Ordering::Relaxed)),
                }
            }
        }

        impl AddAssign for PortCounters {
            fn add_assign(&mut self, other: PortCounters) {
                $(self.$field = self.$field.wrapping_add(other.$field);)*
                for (a, b) in self.drops.iter_mut().zip(other.drops) {
                    *a = a.wrapping_add(b);
                }
            }
        }
    };
}

counters! {
    rx_packets "Packets received and handed to the worker.";
    rx_bytes "Bytes of those.";
    tx_packets "Packets handed to the device or the kernel.";
    tx_bytes "Bytes of those.";
    rx_partial "Received packets whose checksum the sender's kernel had left unfinished.";
    tx_partial "Packets sent with their checksum left to the receiver or the device.";
    checksums_finished "Checksums that the port finished in software.";
    kicks "Times that the kernel was asked to start transmission or receiving.";
    kicks_again "Such times that were repeated, as the kernel had left something.";
    fill_starved "Times that there were fewer free frames than the queue could take.";
}

impl QueueCounters {
    /// Count packets that were dropped.
    #[inline]
    pub(crate) fn count_drop(&self, why: PortDrop, n: u64) {
        add(&self.drops[why as usize], n);
    }

    /// Packets dropped under a reason.
    pub fn dropped(&self, why: PortDrop) -> u64 {
        self.drops[why as usize].load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn received(&self, packets: u64, bytes: u64) {
        add(&self.rx_packets, packets);
        add(&self.rx_bytes, bytes);
    }

    #[inline]
    pub(crate) fn sent(&self, packets: u64, bytes: u64) {
        add(&self.tx_packets, packets);
        add(&self.tx_bytes, bytes);
    }
}

impl PortCounters {
    /// Packets dropped under a reason.
    pub fn dropped(&self, why: PortDrop) -> u64 {
        self.drops[why as usize]
    }

    /// Reasons with at least one packet.
    pub fn drops_seen(&self) -> impl Iterator<Item = (PortDrop, u64)> + '_ {
        PortDrop::ALL.iter().map(|d| (*d, self.dropped(*d))).filter(|(_, n)| *n > 0)
    }
}

/// Add to a counter that only the calling thread writes: a load and a store, no locked
/// instruction.
#[inline(always)]
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_texts_are_sentences() {
        let mut names: Vec<_> = PortDrop::ALL.iter().map(|d| d.name()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), PortDrop::COUNT);
        assert!(PortDrop::ALL.iter().all(|d| d.text().ends_with('.')));
    }

    #[test]
    fn sums_over_queues() {
        let (a, b) = (QueueCounters::default(), QueueCounters::default());
        a.received(3, 180);
        b.received(1, 60);
        b.count_drop(PortDrop::TxFull, 7);
        let mut sum = a.read();
        sum += b.read();
        assert_eq!((sum.rx_packets, sum.rx_bytes), (4, 240));
        assert_eq!(sum.drops_seen().collect::<Vec<_>>(), [(PortDrop::TxFull, 7)]);
    }
}
