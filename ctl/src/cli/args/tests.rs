//! The grammar: what is taken, in which order, and what is a mistake.

use super::*;

fn commands(line: &str) -> Vec<Command> {
    match parse(line.split(' ').map(OsString::from)).unwrap_or_else(|e| panic!("{line}: {e}")) {
        Invocation::Commands { commands, .. } => commands,
        other => panic!("{line}: {other:?}"),
    }
}

fn options(line: &str) -> Options {
    match parse(line.split(' ').map(OsString::from)).unwrap_or_else(|e| panic!("{line}: {e}")) {
        Invocation::Commands { options, .. } => options,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_grammar_is_sound() {
    grammar().debug_assert();
}

#[test]
fn options_stand_before_or_after() {
    for line in [
        "vswitchctl --run-dir /r --format json --timeout 2.5 list-br",
        "vswitchctl list-br --run-dir /r --format json --timeout 2.5",
        "vswitchctl --run-dir /r -- list-br --timeout=2.5 -- list-br --format=json",
    ] {
        let o = options(line);
        assert_eq!(o.run_dir, PathBuf::from("/r"), "{line}");
        assert_eq!((o.format, o.timeout), (Format::Json, Duration::from_millis(2500)), "{line}");
    }
    assert_eq!(options("vswitchctl fdb show br0 --timeout 3").timeout, Duration::from_secs(3));
    for line in [
        "vswitchctl --may-exist add-port br0 p1 tag=5 --format json",
        "vswitchctl add-port --may-exist br0 p1 tag=5",
        "vswitchctl add-port br0 p1 tag=5 --may-exist",
    ] {
        assert_eq!(commands(line)[0].text(), "--may-exist add-port br0 p1 tag=5", "{line}");
    }
}

#[test]
fn a_chain_is_one_transaction_and_flags_stay_with_their_command() {
    let list = commands(
        "vswitchctl --may-exist add-br br0 -- add-port br0 p -- --if-exists del-port br0 q -- fdb flush br0",
    );
    let text: Vec<_> = list.iter().map(Command::text).collect();
    assert_eq!(
        text,
        ["--may-exist add-br br0", "add-port br0 p", "--if-exists del-port br0 q", "fdb flush br0"]
    );
}

#[test]
fn values_may_look_like_anything() {
    let list = commands("vswitchctl set Interface p1 external_ids:a=-1 options:peer=x");
    assert_eq!(list[0].text(), "set interface p1 external_ids:a=-1 options:peer=x");
}

#[test]
fn mistakes_are_usage_errors() {
    for line in [
        "vswitchctl",
        "vswitchctl add-bt br0",
        "vswitchctl add-br",
        "vswitchctl list-br --may-exist",
        "vswitchctl --if-exists add-br br0",
        "vswitchctl list-br -- ",
        "vswitchctl list-br -- -- list-br",
        "vswitchctl --format xml list-br",
        "vswitchctl --timeout -1 list-br",
        "vswitchctl --timeout x list-br",
        "vswitchctl set port p1",
        "vswitchctl set prot p1 tag=5",
        "vswitchctl del-port a b c",
        "vswitchctl fdb",
        "vswitchctl completions bash -- list-br",
    ] {
        let words: Vec<_> = line.split(' ').filter(|w| !w.is_empty()).map(OsString::from).collect();
        let error = parse(words).expect_err(line);
        assert!(error.use_stderr() && error.exit_code() == 2, "{line}: {error}");
    }
    let error = parse(["vswitchctl", "add-bt", "br0"].map(OsString::from)).expect_err("slip");
    assert!(error.to_string().contains("'add-br'"), "{error}");
}

#[test]
fn completions_name_the_commands() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        assert!(completions(shell).contains("dump-megaflows"), "{shell}");
    }
}

#[test]
fn every_command_has_examples() {
    for sub in grammar().get_subcommands().filter(|c| c.get_name() != "help") {
        let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("vswitchctl"), "{}", sub.get_name());
    }
}

#[test]
fn a_list_of_connections_stands_alone() {
    let listed = |line: &str| match parse(line.split(' ').map(OsString::from)) {
        Ok(Invocation::List { listing, .. }) => listing,
        other => panic!("{line}: {other:?}"),
    };
    let l = listed("vswitchctl conntrack list zone=5 proto=tcp -f");
    assert_eq!(
        (l.filter, l.limit, l.follow),
        (vec!["zone=5".into(), "proto=tcp".into()], None, true)
    );
    assert_eq!(listed("vswitchctl conntrack list --limit 7").limit, Some(7));
    let texts: Vec<_> = commands(
        "vswitchctl conntrack limit -- conntrack limit zone:5=1 -- conntrack timeout --zone 5 -- \
         conntrack timeout udp_first=3 -- conntrack flush zone=5 -- conntrack stats",
    )
    .iter()
    .map(Command::text)
    .collect();
    assert_eq!(
        texts,
        [
            "conntrack limit",
            "conntrack limit zone:5=1",
            "conntrack timeout --zone=5",
            "conntrack timeout udp_first=3",
            "conntrack flush zone=5",
            "conntrack stats"
        ]
    );
    for bad in ["conntrack list -- show", "--may-exist conntrack flush", "conntrack"] {
        let line = format!("vswitchctl {bad}");
        assert!(parse(line.split(' ').map(OsString::from)).is_err(), "{bad}");
    }
}
