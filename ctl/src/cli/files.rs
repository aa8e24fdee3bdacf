//! Files whose content is part of a command. Read here, so that the daemon opens no file for anybody.

use std::fmt::Write;
use std::io::{self, Read};
use std::path::Path;

use super::args::File;
use crate::command::Command;
use crate::error::CtlError;

/// Put a file's content into the command that lacks it.
pub(super) fn load(command: &mut Command, file: &File) -> Result<(), CtlError> {
    match (command, file) {
        (
            Command::AddFlows { flows: text, .. }
            | Command::ReplaceFlows { flows: text, .. }
            | Command::DiffFlows { flows: text, .. }
            | Command::AddGroups { groups: text, .. },
            File::Text(path),
        ) => *text = read_text(path)?,
        (Command::Trace { packets, .. }, File::Pcap(path)) => *packets = read_pcap(path)?,
        (command, _) => {
            let message = format!("\"{}\" takes no file", command.text());
            return Err(CtlError::internal(message));
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, CtlError> {
    let failed = |e: io::Error| match path.as_os_str() == "-" {
        true => CtlError::system(format!("cannot read standard input: {e}")),
        false => CtlError::system(format!("cannot read {}: {e}", path.display())),
    };
    if path.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Every frame of a pcap file, in hexadecimal.
fn read_pcap(path: &Path) -> Result<Vec<String>, CtlError> {
    let mut packets = Vec::new();
    let frame = |bytes: &[u8]| {
        let mut text = String::with_capacity(bytes.len() * 2);
        for b in bytes {
            let _ = write!(text, "{b:02x}");
        }
        packets.push(text);
    };
    ports::pcap::read_file(path, frame).map_err(|e| CtlError::invalid(e.to_string()))?;
    Ok(packets)
}
