//! What is an OpenFlow group, and may it be as it is given?
//!
//! A group is a list of buckets, each with actions, and a type that says which of them a packet
//! goes through. Rules name groups by number, so a group can change without them.
//!
//! Must not know: text, translation, which ports exist.

use crate::action::{Action, GroupId, OfPort};
use crate::flowmod::goes_to_group;
use crate::mf::Mf;

/// The highest number of a group (`OFPG_MAX`).
pub const MAX_GROUP: u32 = 0xffff_ff00;
/// Buckets that a group may have.
pub const MAX_BUCKETS: usize = 65_536;
/// The highest id of a bucket (`OFPG_BUCKET_MAX` of OpenFlow 1.5).
pub const MAX_BUCKET_ID: u32 = 0xffff_ff00;

/// Which buckets a packet goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupType {
    /// Each of them, each with a copy.
    All,
    /// One, by weight and a hash of the packet.
    Select,
    /// The only one.
    Indirect,
    /// The first that is alive.
    FastFailover,
}

impl GroupType {
    /// Every type.
    pub const ALL: [GroupType; 4] =
        [GroupType::All, GroupType::Select, GroupType::Indirect, GroupType::FastFailover];

    /// The name that is written.
    pub const fn name(self) -> &'static str {
        match self {
            GroupType::All => "all",
            GroupType::Select => "select",
            GroupType::Indirect => "indirect",
            GroupType::FastFailover => "ff",
        }
    }
}

/// How a select group picks a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Selection {
    /// Not said: the switch's choice.
    #[default]
    Default,
    /// By the hash that the datapath computes, over all fields of the packet's layer 2 to 4.
    DpHash,
    /// By a hash over these fields, each under a mask, looked at in translation.
    Hash(Box<[(Mf, u128)]>),
}

/// One choice of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Unique in the group.
    pub id: u32,
    /// Share of a select group's packets; 0 for none.
    pub weight: u16,
    /// Alive while this port is.
    pub watch_port: Option<OfPort>,
    /// Alive while this group has a bucket that is.
    pub watch_group: Option<GroupId>,
    /// What is done, as an action set or a list.
    pub actions: Box<[Action]>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number, up to [`MAX_GROUP`].
    pub id: GroupId,
    /// Its type.
    pub kind: GroupType,
    /// How a select group picks.
    pub selection: Selection,
    /// A parameter of the selection (for `dp_hash`, the hash's basis).
    pub selection_param: u64,
    /// Its buckets.
    pub buckets: Box<[Bucket]>,
}

/// What to do with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupCommand {
    /// Add one; there must be none with this number.
    Add,
    /// Replace one; there must be one.
    Modify,
    /// Replace one or add it.
    AddOrModify,
    /// Remove one or all.
    Delete,
    /// Put buckets into one.
    InsertBucket,
    /// Take a bucket out of one.
    RemoveBucket,
}

impl GroupCommand {
    /// Every command by its word in a file of groups.
    pub const ALL: [(&'static str, GroupCommand); 6] = [
        ("add", GroupCommand::Add),
        ("modify", GroupCommand::Modify),
        ("add_or_mod", GroupCommand::AddOrModify),
        ("delete", GroupCommand::Delete),
        ("insert_bucket", GroupCommand::InsertBucket),
        ("remove_bucket", GroupCommand::RemoveBucket),
    ];
}

/// Which bucket of a group a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketPlace {
    /// The first; new ones go before it.
    First,
    /// The last; new ones go behind it.
    Last,
    /// All of them; only to remove them.
    All,
    /// The one with that id; new ones go before it.
    Id(u32),
}

/// One change of a bridge's groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMod {
    /// What to do.
    pub command: GroupCommand,
    /// With all groups; only to delete them.
    pub all: bool,
    /// Which bucket a change of single buckets is about.
    pub place: Option<BucketPlace>,
    /// The group; for a deletion only its number counts, for a change of single buckets its
    /// number and its buckets.
    pub group: Group,
}

impl GroupMod {
    /// The group that a change of single buckets makes of `old`.
    ///
    /// # Errors
    /// There is no such bucket, or the result may not be.
    pub fn change_buckets(&self, old: &Group) -> Result<Group, GroupError> {
        let mut buckets = old.buckets.to_vec();
        let find =
            |id: u32| old.buckets.iter().position(|b| b.id == id).ok_or(GroupError::NoBucket(id));
        match (self.command, self.place) {
            (GroupCommand::InsertBucket, Some(place)) => {
                let at = match place {
                    BucketPlace::First => 0,
                    BucketPlace::Last | BucketPlace::All => buckets.len(),
                    BucketPlace::Id(id) => find(id)?,
                };
                buckets.splice(at..at, self.group.buckets.iter().cloned());
            }
            (GroupCommand::RemoveBucket, Some(place)) => match place {
                BucketPlace::All => buckets.clear(),
                BucketPlace::First => drop(buckets.drain(..buckets.len().min(1))),
                BucketPlace::Last => drop(buckets.pop()),
                BucketPlace::Id(id) => drop(buckets.remove(find(id)?)),
            },
            _ => {}
        }
        let group = Group { buckets: buckets.into(), ..old.clone() };
        group.check()?;
        Ok(group)
    }
}

/// What is wrong with a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// The number is beyond [`MAX_GROUP`].
    Number(u32),
    /// More than [`MAX_BUCKETS`].
    TooManyBuckets(usize),
    /// An indirect group has exactly one bucket.
    IndirectBuckets(usize),
    /// Two buckets have the same id.
    DuplicateBucket(u32),
    /// A bucket's id is beyond [`MAX_BUCKET_ID`].
    BucketId(u32),
    /// Only select groups have weights and selections.
    NotSelect(&'static str),
    /// A fast failover bucket must watch a port or a group.
    NothingToWatch(u32),
    /// There is no bucket with that id.
    NoBucket(u32),
    /// A group that watches or holds itself.
    Itself(u32),
}

impl std::fmt::Display for GroupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GroupError::Number(n) => {
                write!(f, "group number {n} is beyond the highest, {MAX_GROUP}")
            }
            GroupError::TooManyBuckets(n) => {
                write!(f, "{n} buckets are more than a group may have, {MAX_BUCKETS}")
            }
            GroupError::IndirectBuckets(n) => {
                write!(f, "an indirect group has exactly one bucket, this one has {n}")
            }
            GroupError::DuplicateBucket(id) => write!(f, "two buckets have the id {id}"),
            GroupError::BucketId(id) => {
                write!(f, "bucket id {id} is beyond the highest, {MAX_BUCKET_ID}")
            }
            GroupError::NotSelect(what) => write!(f, "{what} is for groups of type select only"),
            GroupError::NothingToWatch(id) => {
                write!(f, "bucket {id} of a fast failover group needs watch_port or watch_group")
            }
            GroupError::NoBucket(id) => write!(f, "the group has no bucket with the id {id}"),
            GroupError::Itself(id) => write!(f, "bucket {id} leads to its own group"),
        }
    }
}

impl std::error::Error for GroupError {}

impl Group {
    /// Whether the group may be as it is.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), GroupError> {
        if self.id.0 > MAX_GROUP {
            return Err(GroupError::Number(self.id.0));
        }
        if self.buckets.len() > MAX_BUCKETS {
            return Err(GroupError::TooManyBuckets(self.buckets.len()));
        }
        if self.kind == GroupType::Indirect && self.buckets.len() != 1 {
            return Err(GroupError::IndirectBuckets(self.buckets.len()));
        }
        if self.kind != GroupType::Select && self.selection != Selection::Default {
            return Err(GroupError::NotSelect("selection_method"));
        }
        let mut ids: Vec<u32> = self.buckets.iter().map(|b| b.id).collect();
        ids.sort_unstable();
        if let Some(w) = ids.windows(2).find(|w| w[0] == w[1]) {
            return Err(GroupError::DuplicateBucket(w[0]));
        }
        if self.kind != GroupType::Select && self.buckets.iter().any(|b| b.weight > 1) {
            return Err(GroupError::NotSelect("weight"));
        }
        self.buckets.iter().try_for_each(|b| self.check_bucket(b))
    }

    fn check_bucket(&self, b: &Bucket) -> Result<(), GroupError> {
        if b.id > MAX_BUCKET_ID {
            return Err(GroupError::BucketId(b.id));
        }
        let unwatched = b.watch_port.is_none() && b.watch_group.is_none();
        if self.kind == GroupType::FastFailover && unwatched {
            return Err(GroupError::NothingToWatch(b.id));
        }
        if b.watch_group == Some(self.id) || goes_to_group(&b.actions, self.id) {
            return Err(GroupError::Itself(b.id));
        }
        Ok(())
    }
}
