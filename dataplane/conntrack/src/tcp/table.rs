//! Which state follows which?
//!
//! The states are named as Linux's connection tracker names them, and so is their meaning: the
//! tracker stands between the two hosts and sees what they send, not what they receive.

use super::segment::Sort;

/// State of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum TcpState {
    /// Nothing seen.
    #[default]
    None = 0,
    /// SYN seen.
    SynSent = 1,
    /// SYN and SYN-ACK seen.
    SynRecv = 2,
    /// Handshake complete, or picked up in the middle.
    Established = 3,
    /// FIN seen from one side.
    FinWait = 4,
    /// That FIN acknowledged: half closed.
    CloseWait = 5,
    /// FIN seen from both sides.
    LastAck = 6,
    /// The second FIN acknowledged.
    TimeWait = 7,
    /// Reset.
    Close = 8,
    /// SYN seen from both sides: a simultaneous open.
    SynSent2 = 9,
}

impl TcpState {
    /// Every state that a connection can be in.
    pub const ALL: [TcpState; 10] = [
        TcpState::None,
        TcpState::SynSent,
        TcpState::SynRecv,
        TcpState::Established,
        TcpState::FinWait,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::TimeWait,
        TcpState::Close,
        TcpState::SynSent2,
    ];

    /// The state with that number; numbers beyond give [`TcpState::None`].
    pub fn from_u8(v: u8) -> TcpState {
        Self::ALL.get(usize::from(v)).copied().unwrap_or_default()
    }

    /// The name shown.
    pub const fn name(self) -> &'static str {
        match self {
            TcpState::None => "NONE",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::Established => "ESTABLISHED",
            TcpState::FinWait => "FIN_WAIT",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Close => "CLOSE",
            TcpState::SynSent2 => "SYN_SENT2",
        }
    }
}

/// What a segment does to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    To(TcpState),
    /// It may be right or wrong, and the receiver will answer if it is wrong: let it through,
    /// note it, and stay.
    Ignore,
    Invalid,
}

const IV: Next = Next::Invalid;
const IG: Next = Next::Ignore;
const SS: Next = Next::To(TcpState::SynSent);
const SR: Next = Next::To(TcpState::SynRecv);
const ES: Next = Next::To(TcpState::Established);
const FW: Next = Next::To(TcpState::FinWait);
const CW: Next = Next::To(TcpState::CloseWait);
const LA: Next = Next::To(TcpState::LastAck);
const TW: Next = Next::To(TcpState::TimeWait);
const CL: Next = Next::To(TcpState::Close);
const S2: Next = Next::To(TcpState::SynSent2);

/// By direction, sort of segment, and state (in the order of [`TcpState::ALL`]).
#[rustfmt::skip]
const TABLE: [[[Next; 10]; 6]; 2] = [
    [   // original direction:
        // none  SS  SR  ES  FW  CW  LA  TW  CL  S2
        // A SYN opens, or opens again what is closed; within a connection it may be an old one,
        // or we hold a dead one: the receiver knows.
        [   SS,  SS, IG, IG, IG, IG, IG, SS, SS, S2 ],
        // The opener sends SYN-ACK only in a simultaneous open.
        [   IV,  IV, SR, IV, IV, IV, IV, IV, IV, SR ],
        [   IV,  IV, FW, FW, LA, LA, LA, TW, CL, IV ], // FIN
        // The first ACK of nothing picks a connection up.
        [   ES,  IV, ES, ES, CW, CW, TW, TW, CL, IV ], // ACK
        [   IV,  CL, CL, CL, CL, CL, CL, CL, CL, CL ], // RST
        [   IV,  IV, IV, IV, IV, IV, IV, IV, IV, IV ], // none of these
    ],
    [   // reply direction:
        // none  SS  SR  ES  FW  CW  LA  TW  CL  S2
        // SYN: a simultaneous open, or the other side opens again after TIME_WAIT.
        [   IV,  S2, IV, IV, IV, IV, IV, SS, IV, S2 ],
        // SYN-ACK: opens, or is late, or answers a SYN that was ignored.
        [   IV,  SR, IG, IG, IG, IG, IG, IG, IG, SR ],
        [   IV,  IV, FW, FW, LA, LA, LA, TW, CL, IV ], // FIN
        // ACK of a SYN: a half-open connection that the opener will reset, or a challenge.
        [   IV,  IG, SR, ES, CW, CW, TW, TW, CL, IG ],
        [   IV,  CL, CL, CL, CL, CL, CL, CL, CL, CL ], // RST
        [   IV,  IV, IV, IV, IV, IV, IV, IV, IV, IV ], // none of these
    ],
];

/// The state after a segment, its sequence numbers not looked at.
#[inline(always)]
pub(crate) fn next(reply: bool, sort: Sort, state: TcpState) -> Next {
    TABLE[usize::from(reply)][sort as usize][state as usize]
}
