//! Clients that listen: requests that are answered by events until the client leaves or there is nothing
//! more to listen to.
//!
//! `monitor` with `{"bridge": "br0"}` is such a request. Its first event says that it is in force. It is
//! answered at the end only: by an error when the bridge is gone.

use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::backend::{Backend, answer};
use crate::config::Config;
use crate::error::CtlError;
use crate::report::MonitorEvent;
use crate::rpc::{ClientId, ErrorBody, Outbox, Request, RequestId};

/// The method that listens.
pub const MONITOR: &str = "monitor";

struct Stream {
    client: ClientId,
    id: RequestId,
    bridge: String,
}

/// All clients that listen. Belongs to the control thread.
#[derive(Default)]
pub struct Streams(Vec<Stream>);

impl Streams {
    /// A client wants to listen.
    pub fn open(
        &mut self,
        (backend, config): (&mut dyn Backend, &Config),
        request: Request,
        outbox: &Outbox,
    ) {
        let Request { client, id, params, .. } = request;
        match bridge_of(&params, config) {
            Ok(bridge) => {
                let started = MonitorEvent::Started { bridge: bridge.clone() };
                if let Ok(event) = answer(&started) {
                    outbox.event(client, id.clone(), event);
                }
                self.0.push(Stream { client, id, bridge });
                self.watch(backend);
            }
            Err(error) => outbox.reply(client, id, Err(error.into())),
        }
    }

    /// A client has left.
    pub fn gone(&mut self, client: ClientId, backend: &mut dyn Backend) {
        self.0.retain(|s| s.client != client);
        self.watch(backend);
    }

    fn watch(&self, backend: &mut dyn Backend) {
        let bridges: Vec<String> = self.0.iter().map(|s| s.bridge.clone()).collect();
        backend.monitor(&bridges);
    }

    /// Hand out what has happened, and end what there is nothing more to say of.
    pub fn deliver(&mut self, (backend, config): (&mut dyn Backend, &Config), outbox: &Outbox) {
        if self.0.is_empty() {
            return;
        }
        for (bridge, event) in backend.take_events() {
            self.tell(&bridge, &event, outbox);
        }
        let before = self.0.len();
        self.0.retain(|s| {
            let there = config.bridges.contains_key(&s.bridge);
            if !there {
                let error = CtlError::not_found(format!("bridge \"{}\" was removed", s.bridge));
                outbox.reply(s.client, s.id.clone(), Err(ErrorBody::from(error)));
            }
            there
        });
        if self.0.len() != before {
            self.watch(backend);
        }
    }

    fn tell(&self, bridge: &str, event: &RawValue, outbox: &Outbox) {
        for s in self.0.iter().filter(|s| s.bridge == bridge) {
            outbox.event(s.client, s.id.clone(), event.to_owned());
        }
    }
}

fn bridge_of(params: &Json, config: &Config) -> Result<String, CtlError> {
    let Some(bridge) = params.get("bridge").and_then(Json::as_str) else {
        return Err(CtlError::protocol("monitor: expected {\"bridge\": \"br0\"}"));
    };
    config.bridge(bridge)?;
    Ok(bridge.to_owned())
}
