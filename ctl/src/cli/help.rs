//! Longer help texts. The list of keys is made from the schema, so that it names what there is.

use super::table::Table;
use crate::schema::{self, BRIDGE, PORT};

/// After the list of commands.
pub(super) const EXAMPLES: &str = "Examples:
  vswitchctl add-br br0 -- add-port br0 eth1 -- add-port br0 eth2 tag=10
  vswitchctl set bridge br0 other_config:mac-aging-time=60
  vswitchctl show
  vswitchctl --format json dump-ports br0
  vswitchctl --run-dir /run/other version

Several commands with -- between them are one transaction: all of them happen, or none.
\"vswitchctl help COMMAND\" explains one command with examples. Exit status: 0 done, 1 refused or no
daemon, 2 wrong usage.";

/// After the help of `set`: every key with its meaning and what is expected.
pub(super) fn keys() -> String {
    format!(
        "Keys (columns of ovs-vswitchd.conf.db(5)):\n{}\n{}\n{}",
        table(&BRIDGE),
        table(&PORT),
        SET_EXAMPLES
    )
}

const SET_EXAMPLES: &str = "Examples:
  vswitchctl set bridge br0 fail_mode=secure
  vswitchctl set port eth1 tag=5 vlan_mode=access
  vswitchctl set port eth2 trunks=10,20-29
  vswitchctl set port vnet3 external_ids:iface-id=a1b2c3";

fn table<S>(table: &schema::Table<S>) -> String {
    let title = format!("{} KEY", table.name.to_uppercase());
    let mut rows = Table::new(&[&title, "MEANING, AND WHAT IS EXPECTED"]).indent(2);
    for column in table.columns {
        rows.row(vec![column.label().into(), column.help.into()]);
        rows.row(vec!["".into(), format!("  {}", column.expected).into()]);
    }
    for map in table.free_maps {
        rows.row(vec![
            format!("{}:NAME", map.name).into(),
            "any text, kept for whoever set it".into(),
        ]);
    }
    rows.render()
}
