//! Traces of packets that come out of tunnels: what is inside a traced frame goes on as a worker would
//! have it, by the tunnel port that it belongs to.

use flow::{Drop, Field, FlowKey, extract};
use ofproto::program::{DpAction, DpPort};
use ofproto::underlay::listens;
use ofproto::xlate::{Translation, translate};
use tunnel::decap;

use super::EngineBackend;
use super::trace::Recorder;
use crate::report::{TracePass, TraceStep, TraceWhat};

/// Tunnels inside of tunnels that a trace follows.
const MAX_NESTED: usize = 4;

/// The listeners to which a program gives its packet.
fn listeners(program: &[DpAction], all: &mut Vec<DpPort>) {
    for step in program {
        match step {
            DpAction::TunnelPop(listener) if !all.contains(listener) => all.push(*listener),
            DpAction::Clone(steps) => listeners(steps, all),
            _ => {}
        }
    }
}

impl EngineBackend {
    /// Go on with what is inside of a packet, if the program of the last pass takes its outer headers off.
    pub(super) fn trace_inside(
        &mut self,
        program: &[DpAction],
        frame: Option<&[u8]>,
        passes: &mut Vec<TracePass>,
        depth: usize,
    ) {
        let mut popped = Vec::new();
        listeners(program, &mut popped);
        for listener in popped.into_iter().filter(|_| depth < MAX_NESTED) {
            let inside = match frame {
                Some(frame) => self.decapsulate(frame, listener),
                None => Err(None),
            };
            let (key, inner) = match inside {
                Ok(inside) => inside,
                Err(why) => {
                    let text = match why {
                        Some(why) => format!("dropped: {} ({})", why.name(), why.text()),
                        None => {
                            "what is inside is not known: give the frame with --packet".to_owned()
                        }
                    };
                    if let Some(last) = passes.last_mut() {
                        last.steps.push(TraceStep { depth: 0, what: TraceWhat::Note { text } });
                    }
                    continue;
                }
            };
            let snapshot = self.switch.preview();
            let port = listens(listener).and_then(|(kind, udp)| {
                snapshot.underlay.table.lookup(kind, udp, &key, &mut FlowKey::ZERO.clone())
            });
            let mut out = Translation::default();
            let bridge = port.and_then(|(b, _)| snapshot.bridge(*b)).map(|b| &**b);
            let mut recorder = Recorder::new(bridge);
            translate(snapshot, &key, Some(&mut recorder), &mut out);
            let mut shown = key.clone();
            if let Some((_, ofport)) = port {
                shown.set(Field::InPort, u128::from(ofport.0));
            }
            passes.push(recorder.pass(&shown, &key, &out));
            self.trace_inside(&out.program, Some(&inner), passes, depth + 1);
        }
    }

    /// The key and bytes of what is inside of a frame; why not, if it is to be dropped.
    fn decapsulate(
        &mut self,
        frame: &[u8],
        listener: DpPort,
    ) -> Result<(FlowKey, Vec<u8>), Option<Drop>> {
        let (kind, _) = listens(listener).ok_or(None)?;
        let mut packet = self.pool.packet_from(frame).ok_or(Some(Drop::NoFrame))?;
        let mut outer = FlowKey::ZERO;
        let off = extract(packet.data(), packet.len(), &mut outer);
        let stripped = decap(&mut packet, &off, &outer, kind)
            .and_then(|inner| inner.strip(&mut packet, &mut self.pool).map(|()| inner));
        let mut key = FlowKey::ZERO;
        let done = stripped.map(|inner| {
            inner.metadata(&outer, &mut key);
            let mut bytes = vec![0; packet.len()];
            packet.copy_to(&mut bytes);
            extract(&bytes, bytes.len(), &mut key);
            key.set(Field::InPort, u128::from(listener.0));
            bytes
        });
        self.pool.free_packet(packet);
        done.map(|bytes| (key, bytes)).map_err(Some)
    }
}
