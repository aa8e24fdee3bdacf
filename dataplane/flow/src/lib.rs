//! Wire formats, flow keys and masks, extraction, header edits.
pub mod build;
pub mod checksum;
pub mod cpu;
pub mod crc32c;
pub mod cut;
pub mod drops;
pub mod edit;
pub mod extract;
pub mod fields;
pub mod key;
pub mod sparse;

pub use drops::Drop;
pub use extract::{Depth, Fault, Offsets, extract, extract_to};
pub use fields::{Field, Place};
pub use key::{DP_WORDS, FlowKey, Groups, WORDS, word};
pub use sparse::{MaskWords, Match};
