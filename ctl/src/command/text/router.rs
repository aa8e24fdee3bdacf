//! Commands on routers and security groups as they would be typed.

use super::{Command, Words};

/// The words of a command on routers or security groups; of others none.
pub(super) fn words(command: &Command, words: &mut Words) {
    match command {
        Command::AddRouter { router, may_exist } => {
            words.flag("--may-exist", *may_exist).word("add-router").word(router);
        }
        Command::DelRouter { router, if_exists } => {
            words.flag("--if-exists", *if_exists).word("del-router").word(router);
        }
        Command::ListRouters {} => drop(words.word("list-routers")),
        Command::ShowRouter { router } => drop(words.word("show-router").word(router)),
        Command::AddRouterPort { router, bridge, port, settings, may_exist } => {
            words.flag("--may-exist", *may_exist).word("add-router-port").word(router);
            words.word(bridge).word(port).list(settings);
        }
        Command::DelRouterPort { router, port, if_exists } => {
            words.flag("--if-exists", *if_exists).word("del-router-port").word(router).word(port);
        }
        Command::SetGateway { router, bridge, port, settings } => {
            words.word("set-gateway").word(router).word(bridge).word(port).list(settings);
        }
        Command::DelGateway { router, if_exists } => {
            words.flag("--if-exists", *if_exists).word("del-gateway").word(router);
        }
        Command::AddRoute { router, prefix, via, may_exist } => {
            words.flag("--may-exist", *may_exist).word("add-route").word(router);
            words.word(prefix).word("via").word(via);
        }
        Command::DelRoute { router, prefix, if_exists } => {
            words.flag("--if-exists", *if_exists).word("del-route").word(router).word(prefix);
        }
        Command::AddSnat { router, prefix, address, may_exist } => {
            words.flag("--may-exist", *may_exist).word("add-snat").word(router);
            words.word(prefix).word(address);
        }
        Command::DelSnat { router, prefix, if_exists } => {
            words.flag("--if-exists", *if_exists).word("del-snat").word(router).word(prefix);
        }
        Command::AddFloatingIp { router, external, internal, may_exist } => {
            words.flag("--may-exist", *may_exist).word("add-floating-ip").word(router);
            words.word(external).word(internal);
        }
        Command::DelFloatingIp { router, external, if_exists } => {
            words.flag("--if-exists", *if_exists).word("del-floating-ip").word(router);
            words.word(external);
        }
        Command::AddDnat { router, proto, external, internal, may_exist } => {
            words.flag("--may-exist", *may_exist).word("add-dnat").word(router);
            words.word(proto.as_str()).word(external).word(internal);
        }
        Command::DelDnat { router, proto, external, if_exists } => {
            words.flag("--if-exists", *if_exists).word("del-dnat").word(router);
            words.word(proto.as_str()).word(external);
        }
        Command::SecurityGroupSet { port, settings } => {
            words.word("security-group").word("set").word(port).list(settings);
        }
        Command::SecurityGroupRemove { port, if_exists } => {
            words.flag("--if-exists", *if_exists).word("security-group").word("remove").word(port);
        }
        Command::SecurityGroupAdd { port, way, rule, may_exist } => {
            words.flag("--may-exist", *may_exist).word("security-group").word("add").word(port);
            words.word(way.as_str()).list(rule);
        }
        Command::SecurityGroupDel { port, way, rule, if_exists } => {
            words.flag("--if-exists", *if_exists).word("security-group").word("del").word(port);
            words.word(way.as_str()).list(rule);
        }
        Command::SecurityGroupShow { port } => {
            words.word("security-group").word("show").list(port.as_slice());
        }
        _ => {}
    }
}
