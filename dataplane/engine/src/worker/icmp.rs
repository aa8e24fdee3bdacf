//! ICMP errors, and TCP's resets: a packet that is not delivered makes room for the news of it.

use std::time::Duration;

use afxdp::Packet;
use flow::build::IcmpError;
use flow::extract::ip_proto;
use flow::{Drop, FlowKey, extract};
use ofproto::action::IcmpSays;
use ofproto::program::IcmpStep;
use tunnel::pmtu;

use super::ct_key::Tracked;
use super::place::Where;
use super::transmit::Transmit;

impl Transmit {
    /// Put an error in the packet's place, and count the packet; an error if there is to be none.
    #[cold]
    pub(super) fn icmp_error(
        &mut self,
        step: &IcmpStep,
        packet: &mut Packet,
        at: &mut Where<'_>,
    ) -> Result<(), Drop> {
        let mut key = FlowKey::ZERO;
        let off = extract(packet.data(), packet.len(), &mut key);
        let v6 = step.from.is_ipv6();
        let is_tcp = off.proto == ip_proto::TCP;
        let error = match step.says {
            IcmpSays::NoPort if is_tcp => {
                let frame = pmtu::reset(packet.data(), &off, &key).map_err(|_| step.why)?;
                return self.answer_with(frame, step, packet, at);
            }
            IcmpSays::TimeExceeded => IcmpError::time_exceeded(v6),
            IcmpSays::TooBig(_) if !pmtu::may_tell(packet.data(), &off, v6) => {
                return Err(step.why);
            }
            IcmpSays::TooBig(mtu) => IcmpError::too_big(v6, mtu),
            IcmpSays::NoRoute => IcmpError { ty: if v6 { 1 } else { 3 }, code: 0, rest: 0 },
            IcmpSays::NoHost if v6 => IcmpError { ty: 1, code: 3, rest: 0 },
            IcmpSays::NoHost => IcmpError { ty: 3, code: 1, rest: 0 },
            IcmpSays::NoPort if v6 => IcmpError { ty: 1, code: 4, rest: 0 },
            IcmpSays::NoPort => IcmpError { ty: 3, code: 3, rest: 0 },
        };
        let frame = pmtu::answer(packet.data(), &off, &key, &error, step.from);
        self.answer_with(frame.map_err(|_| step.why)?, step, packet, at)
    }

    /// Put a frame in the place of the packet that it is about.
    fn answer_with(
        &mut self,
        frame: Vec<u8>,
        step: &IcmpStep,
        packet: &mut Packet,
        at: &mut Where<'_>,
    ) -> Result<(), Drop> {
        if !self.answers.allow(Duration::from_millis(self.now)) {
            self.worker().count_drop(Drop::RateLimit, 1);
            return Err(step.why);
        }
        let Some(answer) = self.pool.packet_from(&frame) else { return Err(Drop::NoFrame) };
        let about = std::mem::replace(packet, answer);
        self.drop_packet(about, step.why, at);
        at.off = extract(packet.data(), packet.len(), &mut FlowKey::ZERO.clone());
        at.tracked = Tracked::Since(None);
        Ok(())
    }
}
