// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Prints a program's listing: `listing [vlan]`. The golden texts of the tests are made with it.

fn main() {
    let restore_vlan = std::env::args().nth(1).as_deref() == Some("vlan");
    let what = xdp_progs::Redirect { restore_vlan, ..xdp_progs::Redirect::default() };
    print!("{}", what.program());
}
