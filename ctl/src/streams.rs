//! Clients that listen: requests that are answered by events until the client leaves or there is nothing
//! more to listen to.
//!
//! `monitor` with `{"bridge": "br0"}` or `{"connections": [FILTER...]}` is such a request. Its first event says that it is in force. It is
//! answered at the end only: by an error when the bridge is gone.

use conntrack::Filter;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::backend::{Backend, answer};
use crate::config::Config;
use crate::conntrack::{filter, is_meant, noticed};
use crate::error::CtlError;
use crate::report::MonitorEvent;
use crate::rpc::{ClientId, ErrorBody, Outbox, Request, RequestId};

/// The method that listens.
pub const MONITOR: &str = "monitor";

/// What a client listens to.
enum Topic {
    Bridge(String),
    Connections(Box<Filter>),
}

struct Stream {
    client: ClientId,
    id: RequestId,
    topic: Topic,
}

/// All clients that listen. Belongs to the control thread.
#[derive(Default)]
pub struct Streams {
    all: Vec<Stream>,
    /// Somebody listens to connections.
    connections: bool,
}

impl Streams {
    /// A client wants to listen.
    pub fn open(
        &mut self,
        (backend, config): (&mut dyn Backend, &Config),
        request: Request,
        outbox: &Outbox,
    ) {
        let Request { client, id, params, .. } = request;
        match topic_of(&params, config) {
            Ok(topic) => {
                let bridge = match &topic {
                    Topic::Bridge(bridge) => Some(bridge.clone()),
                    Topic::Connections(_) => None,
                };
                let request = id.clone();
                self.all.push(Stream { client, id, topic });
                self.watch(backend);
                if let Ok(event) = answer(&MonitorEvent::Started { bridge }) {
                    outbox.event(client, request, event);
                }
            }
            Err(error) => outbox.reply(client, id, Err(error.into())),
        }
    }

    /// A client has left.
    pub fn gone(&mut self, client: ClientId, backend: &mut dyn Backend) {
        self.all.retain(|s| s.client != client);
        self.watch(backend);
    }

    fn watch(&mut self, backend: &mut dyn Backend) {
        let bridge = |s: &Stream| match &s.topic {
            Topic::Bridge(bridge) => Some(bridge.clone()),
            Topic::Connections(_) => None,
        };
        let bridges: Vec<String> = self.all.iter().filter_map(bridge).collect();
        backend.monitor(&bridges);
        let connections = self.all.len() > bridges.len();
        if connections != self.connections {
            self.connections = connections;
            backend.watch_connections(connections);
        }
    }

    /// Hand out what has happened, and end what there is nothing more to say of.
    pub fn deliver(&mut self, (backend, config): (&mut dyn Backend, &Config), outbox: &Outbox) {
        if self.all.is_empty() {
            return;
        }
        for (bridge, event) in backend.take_events() {
            self.tell(|t| matches!(t, Topic::Bridge(b) if *b == bridge), &event, outbox);
        }
        if self.connections {
            self.deliver_connections(backend, outbox);
        }
        let before = self.all.len();
        self.all.retain(|s| {
            let Topic::Bridge(bridge) = &s.topic else { return true };
            let there = config.bridges.contains_key(bridge);
            if !there {
                let error = CtlError::not_found(format!("bridge \"{bridge}\" was removed"));
                outbox.reply(s.client, s.id.clone(), Err(ErrorBody::from(error)));
            }
            there
        });
        if self.all.len() != before {
            self.watch(backend);
        }
    }

    fn deliver_connections(&self, backend: &mut dyn Backend, outbox: &Outbox) {
        let (notices, lost) = backend.take_notices();
        if lost > 0
            && let Ok(event) = answer(&MonitorEvent::Lost { events: lost })
        {
            self.tell(|t| matches!(t, Topic::Connections(_)), &event, outbox);
        }
        for notice in notices {
            let what = notice.what.name().to_owned();
            let connection = noticed(&notice);
            let Ok(event) = answer(&MonitorEvent::Connection { what, connection }) else {
                continue;
            };
            let wants = |t: &Topic| matches!(t, Topic::Connections(f) if is_meant(f, &notice));
            self.tell(wants, &event, outbox);
        }
    }

    fn tell(&self, wants: impl Fn(&Topic) -> bool, event: &RawValue, outbox: &Outbox) {
        for s in self.all.iter().filter(|s| wants(&s.topic)) {
            outbox.event(s.client, s.id.clone(), event.to_owned());
        }
    }
}

fn topic_of(params: &Json, config: &Config) -> Result<Topic, CtlError> {
    if let Some(Json::Array(words)) = params.get("connections") {
        let words: Option<Vec<String>> =
            words.iter().map(|w| w.as_str().map(str::to_owned)).collect();
        let words = words.ok_or_else(|| CtlError::protocol("monitor: a filter is words"))?;
        return Ok(Topic::Connections(Box::new(filter(&words)?)));
    }
    let Some(bridge) = params.get("bridge").and_then(Json::as_str) else {
        let message = "monitor: expected {\"bridge\": \"br0\"} or {\"connections\": [\"zone=1\"]}";
        return Err(CtlError::protocol(message));
    };
    config.bridge(bridge)?;
    Ok(Topic::Bridge(bridge.to_owned()))
}
