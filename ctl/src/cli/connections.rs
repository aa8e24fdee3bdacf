//! `conntrack list`: page by page, so that no list is too long, and what comes and goes after it.

use std::process::ExitCode;

use serde_json::json;

use super::args::{Format, Listing, Options};
use super::render::conntrack as render;
use super::{FAILED, events, report, write_out};
use crate::client::{Connection, Failure};
use crate::command::Command;
use crate::error::CtlError;
use crate::options::SOCKET;
use crate::report::{ConnectionsReport, MonitorEvent};

/// Prints the list, and events until the daemon ends or nobody reads them any more.
pub(super) fn list(options: &Options, listing: &Listing) -> ExitCode {
    let printed = if listing.follow { follow(options, listing) } else { pages(options, listing) };
    match printed {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            report(options.format, &failure);
            ExitCode::from(FAILED)
        }
    }
}

/// Events are asked for first, so that no connection is missed between the list and them.
fn follow(options: &Options, listing: &Listing) -> Result<u8, Failure> {
    let mut listed = Ok(0);
    events(options, &json!({"connections": listing.filter}), |event| {
        if matches!(event, MonitorEvent::Started { .. }) {
            listed = pages(options, listing);
        }
        listed.is_ok()
    })?;
    listed
}

fn pages(options: &Options, listing: &Listing) -> Result<u8, Failure> {
    let socket = options.run_dir.join(SOCKET);
    let mut connection = Connection::open(&socket, options.timeout)?;
    let mut left = listing.limit.unwrap_or(u64::MAX);
    let mut from = Some(0);
    let mut first = true;
    while let Some(at) = from {
        let filter = listing.filter.clone();
        let command = Command::ConntrackList { filter, from: Some(at) };
        let outcome = connection.transact(std::slice::from_ref(&command))?;
        let text = outcome.results.first().map_or("", |raw| raw.get());
        let mut page: ConnectionsReport = serde_json::from_str(text)
            .map_err(|e| CtlError::protocol(format!("the daemon's answer cannot be read: {e}")))?;
        page.connections.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= page.connections.len() as u64;
        from = page.next.filter(|_| left > 0);
        let text = match options.format {
            Format::Table => page.connections.iter().map(render::connection).collect(),
            Format::Json => json_part(&page, &mut first, from.is_none())?,
        };
        let status = write_out(&text);
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}

/// This page's part of the one document that all pages make.
fn json_part(page: &ConnectionsReport, first: &mut bool, last: bool) -> Result<String, Failure> {
    let mut text = String::new();
    if std::mem::take(first) {
        text.push_str("{\"connections\":[");
    } else if !page.connections.is_empty() {
        text.push(',');
    }
    let list = serde_json::to_string(&page.connections)
        .map_err(|e| CtlError::internal(format!("connections as text: {e}")))?;
    text.push_str(list.trim_start_matches('[').trim_end_matches(']'));
    if last {
        text.push_str("]}\n");
    }
    Ok(text)
}
