//! Transactions over a backend that records what it was told and fails on request.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::{Change, changes};

/// What the fake switch was told, one word a step.
#[derive(Default)]
struct Log {
    steps: Vec<String>,
    /// Refuse to add this port.
    refuse_port: Option<String>,
    /// Fail this method.
    fail_call: Option<String>,
}

struct Fake(Rc<RefCell<Log>>);

impl Backend for Fake {
    fn reconfigure(
        &mut self,
        old: &Config,
        new: &Config,
        restore: bool,
    ) -> Result<Vec<String>, CtlError> {
        let mut log = self.0.borrow_mut();
        let mut warnings = Vec::new();
        for change in changes(old, new) {
            let word = match change {
                Change::AddPort { name, .. } if log.refuse_port.as_deref() == Some(name) => {
                    return Err(CtlError::not_found(format!("no interface \"{name}\"")));
                }
                Change::AddPort { name, .. } => {
                    if name == "with-ip" {
                        warnings.push("with-ip carries addresses".to_owned());
                    }
                    format!("+{name}")
                }
                Change::DelPort { name, .. } => format!("-{name}"),
                Change::AddBridge { name, .. } => format!("+{name}"),
                Change::DelBridge { name, .. } => format!("-{name}"),
                Change::SetBridge { name, .. } | Change::SetPort { name, .. } => format!("~{name}"),
            };
            log.steps.push(if restore { format!("restore {word}") } else { word });
        }
        Ok(warnings)
    }

    fn check(&self, config: &Config, command: &Command) -> Result<Request, CtlError> {
        let (method, _) = command.to_call()?;
        assert!(config.ports().all(|(_, _, p)| p.ofport > 0), "checked before numbers");
        match method.as_str() {
            "drops" if self.0.borrow().fail_call.as_deref() == Some("check") => {
                Err(CtlError::invalid("check says no"))
            }
            // The switch's own reading of flows.
            "add-flow" => Request::read(config, command),
            _ => Ok(Request::default()),
        }
    }

    fn call(
        &mut self,
        _: &Config,
        command: &Command,
        _: Request,
    ) -> Result<Box<RawValue>, CtlError> {
        let (method, params) = command.to_call()?;
        let mut log = self.0.borrow_mut();
        if log.fail_call.as_deref() == Some(&*method) {
            return Err(CtlError::system("call failed"));
        }
        log.steps.push(method);
        answer(&json!({"params": params}))
    }

    fn tick(&mut self, _: &Config, _: Instant) -> Duration {
        Duration::from_secs(1)
    }

    fn wake_fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn shutdown(&mut self) {}
}

struct Rig {
    control: Control,
    log: Rc<RefCell<Log>>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let log = Rc::new(RefCell::new(Log::default()));
        let control = Self::control(&dir, &log);
        Self { control, log, dir }
    }

    fn control(dir: &tempfile::TempDir, log: &Rc<RefCell<Log>>) -> Control {
        let store = Store::new(dir.path());
        let config = store.load().expect("load").config;
        let backend = Box::new(Fake(Rc::clone(log)));
        Control::restore(config, store, backend, LogLevel::detached("info")).expect("restore")
    }

    /// Each command as a JSON document.
    fn run(&mut self, commands: &[Json]) -> Result<Json, ErrorBody> {
        let raw = self.control.handle(TRANSACT, json!({"commands": commands}))?;
        Ok(serde_json::from_str(raw.get()).expect("json"))
    }

    fn steps(&self) -> Vec<String> {
        std::mem::take(&mut self.log.borrow_mut().steps)
    }

    fn stored(&self) -> Config {
        Store::new(self.dir.path()).load().expect("load").config
    }
}

fn add_br(name: &str) -> Json {
    json!({"command": "add-br", "bridge": name})
}

fn add_port(bridge: &str, port: &str) -> Json {
    json!({"command": "add-port", "bridge": bridge, "port": port})
}

#[test]
fn what_is_acknowledged_is_stored_and_restored() {
    let mut rig = Rig::new();
    let outcome = rig.run(&[add_br("br0"), add_port("br0", "p1")]).expect("done");
    assert_eq!(outcome, json!({"results": [{"changed": true}, {"changed": true}], "warnings": []}));
    assert_eq!(rig.steps(), ["+br0", "+p1"]);
    assert_eq!(&rig.stored(), rig.control.config());

    let again = Rig::control(&rig.dir, &rig.log);
    assert_eq!(again.config(), rig.control.config());
    assert_eq!(rig.steps(), ["restore +br0", "restore +p1"]);
}

#[test]
fn one_bad_command_refuses_all() {
    let mut rig = Rig::new();
    let error = rig
        .run(&[add_br("br0"), add_port("br0", "p1"), add_port("br1", "p2")])
        .expect_err("no br1");
    assert_eq!(error.data.index, Some(2));
    assert_eq!(error.data.command.as_deref(), Some("add-port br1 p2"));
    assert_eq!(
        error.message,
        "command 3 (add-port br1 p2): no bridge \"br1\"; nothing was changed"
    );
    assert_eq!(error.data.hint.as_deref(), Some("did you mean \"br0\"?"));
    assert!(rig.steps().is_empty());
    assert_eq!(rig.stored(), Config::default());
    assert_eq!(rig.control.config(), &Config::default());
}

#[test]
fn an_interface_that_the_switch_refuses_is_not_stored() {
    let mut rig = Rig::new();
    rig.run(&[add_br("br0")]).expect("done");
    rig.log.borrow_mut().refuse_port = Some("eth9".to_owned());
    let error = rig.run(&[add_port("br0", "eth9")]).expect_err("refused");
    assert_eq!(error.message, "no interface \"eth9\"");
    assert!(rig.stored().find_port("eth9").is_none());
    assert!(rig.control.config().find_port("eth9").is_none());
}

#[test]
fn a_store_that_fails_takes_the_change_back() {
    let mut rig = Rig::new();
    rig.run(&[add_br("br0")]).expect("done");
    rig.steps();
    // A directory in the temporary file's place: it cannot be opened for writing.
    let blocker = rig.dir.path().join("config.json.new");
    std::fs::create_dir(&blocker).expect("block");
    let error = rig.run(&[add_port("br0", "p1")]).expect_err("cannot store");
    assert!(error.message.contains("config.json.new"), "{}", error.message);
    assert!(error.message.ends_with("nothing was changed"));
    assert_eq!(rig.steps(), ["+p1", "-p1"]);
    assert!(rig.control.config().find_port("p1").is_none());
    std::fs::remove_dir(&blocker).expect("unblock");
    assert!(rig.stored().find_port("p1").is_none());
    rig.run(&[add_port("br0", "p1")]).expect("works again");
}

#[test]
fn runtime_commands_keep_their_place_and_see_the_new_configuration() {
    let mut rig = Rig::new();
    let flush = json!({"command": "fdb-flush", "bridge": "br0"});
    let error = rig.run(&[flush.clone(), add_br("br0")]).expect_err("br0 is not there yet");
    assert_eq!(error.data.index, Some(0));
    let outcome = rig.run(&[add_br("br0"), flush, json!({"command": "list-br"})]).expect("done");
    assert_eq!(rig.steps(), ["+br0", "fdb-flush"]);
    assert_eq!(outcome["results"][1]["params"], json!({"bridge": "br0"}));
    assert_eq!(outcome["results"][2], json!({"bridges": ["br0"]}));
}

#[test]
fn port_names_are_those_that_exist_where_the_command_stands() {
    let mut rig = Rig::new();
    rig.run(&[add_br("br0"), add_port("br0", "p1")]).expect("done");
    rig.steps();
    let to = |port: &str| {
        json!({"command": "add-flow", "bridge": "br0",
        "flow": format!("actions=output:{port}")})
    };
    let del = json!({"command": "del-port", "bridge": "br0", "port": "p1"});

    rig.run(&[add_port("br0", "p2"), to("p2")]).expect("p2 was added before");
    rig.run(&[to("p1"), del.clone()]).expect("p1 is deleted behind");
    assert_eq!(rig.steps(), ["+p2", "add-flow", "-p1", "add-flow"]);
    rig.run(&[add_port("br0", "p1"), to("p1"), del.clone(), add_port("br0", "p4")])
        .expect("p1 came and went");
    rig.run(&[add_port("br0", "p1")]).expect("p1 again");
    rig.steps();

    for (commands, index, name) in [
        (vec![to("p3"), add_port("br0", "p3")], 0, "p3"),
        (vec![del.clone(), to("p1")], 1, "p1"),
        (vec![add_port("br0", "p3"), to("p3"), del, to("p1")], 3, "p1"),
    ] {
        let before = rig.stored();
        let error = rig.run(&commands).expect_err("no such port there");
        assert_eq!(error.data.index, Some(index), "{}", error.message);
        assert!(error.message.contains(name), "{}", error.message);
        assert!(rig.steps().is_empty(), "nothing was begun");
        assert_eq!(rig.stored(), before);
    }
}

#[test]
fn a_runtime_command_that_fails_takes_the_configuration_back() {
    let mut rig = Rig::new();
    rig.log.borrow_mut().fail_call = Some("drops".to_owned());
    let error = rig.run(&[add_br("br0"), json!({"command": "drops"})]).expect_err("fails");
    assert_eq!(error.data.index, Some(1));
    assert_eq!(rig.steps(), ["+br0", "-br0"]);
    assert_eq!(rig.stored(), Config::default());
    rig.log.borrow_mut().fail_call = Some("check".to_owned());
    let error = rig.run(&[add_br("br0"), json!({"command": "drops"})]).expect_err("check fails");
    assert!(error.message.contains("check says no"));
    assert!(rig.steps().is_empty());
}

#[test]
fn warnings_are_given_once() {
    let mut rig = Rig::new();
    let set = json!({"command": "set", "record": "port", "name": "p1",
        "settings": ["tag=5", "trunks=1"]});
    let outcome = rig.run(&[add_br("br0"), add_port("br0", "p1"), set]).expect("done");
    assert!(outcome["warnings"][0].as_str().expect("text").contains("trunks has no effect"));
    let outcome = rig.run(&[add_port("br0", "with-ip")]).expect("done");
    assert_eq!(outcome["warnings"], json!(["with-ip carries addresses"]));
}

#[test]
fn nothing_changed_is_nothing_stored() {
    let mut rig = Rig::new();
    rig.run(&[add_br("br0")]).expect("done");
    rig.steps();
    let file = rig.dir.path().join("config.json");
    std::fs::remove_file(&file).expect("remove");
    let again = json!({"command": "add-br", "bridge": "br0", "may_exist": true});
    let outcome = rig.run(&[again]).expect("done");
    assert_eq!(outcome["results"][0], json!({"changed": false}));
    assert!(rig.steps().is_empty() && !file.exists());
}

#[test]
fn broken_requests_are_answered() {
    let mut rig = Rig::new();
    let code = |r: Result<Box<RawValue>, ErrorBody>| r.expect_err("refused").code;
    assert_eq!(code(rig.control.handle("transcat", json!({}))), proto::code::METHOD);
    for params in [
        json!(null),
        json!({}),
        json!({"commands": []}),
        json!({"commands": 5}),
        json!({"commands": [{"command": "list-br"}], "more": 1}),
        json!({"commands": [{"command": "add-br"}]}),
    ] {
        let shown = params.to_string();
        assert_eq!(code(rig.control.handle(TRANSACT, params)), proto::code::PARAMS, "{shown}");
    }
    let error = rig.run(&[json!({"command": "lst-br"})]).expect_err("unknown");
    assert_eq!(error.data.hint.as_deref(), Some("did you mean \"list-br\"?"));
}

#[test]
fn version_show_and_log_level() {
    let mut rig = Rig::new();
    let list = [
        add_br("br0"),
        json!({"command": "version"}),
        json!({"command": "log-level", "level": "debug"}),
        json!({"command": "show"}),
    ];
    let outcome = rig.run(&list).expect("done");
    assert_eq!(outcome["results"][1]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(outcome["results"][2], json!({"level": "debug"}));
    assert_eq!(outcome["results"][3]["bridges"][0]["ports"][0]["ofport"], 65534);
    let error = rig.run(&[json!({"command": "log-level", "level": "loud"})]).expect_err("no level");
    assert!(error.message.contains("\"loud\""));
}

proptest::proptest! {
    /// Whatever a client sends is answered, and what is refused has changed nothing.
    #[test]
    fn any_command_is_answered(
        name in proptest::sample::select(crate::command::NAMES),
        words in proptest::collection::vec("[ -~]{0,12}|br0|p1", 3),
        settings in proptest::collection::vec("(tag|trunks|type|options:peer|external_ids|other_config:mac-aging-time|[a-z_:]{0,9})=([0-9,-]{0,6}|[ -~]{0,9})", 0..3),
        flag in proptest::bool::ANY,
    ) {
        let mut rig = Rig::new();
        rig.run(&[add_br("br0"), add_port("br0", "p1")]).expect("done");
        let before = rig.control.config().clone();
        let mut command = json!({"command": name});
        let fields = [
            ("bridge", json!(words[0])), ("port", json!(words[1])), ("name", json!(words[2])),
            ("record", json!(if flag { "port" } else { "bridge" })),
            ("settings", json!(settings)), ("columns", json!(settings)),
        ];
        // Fields that the command does not have are refused: try without each in turn.
        for (field, value) in fields {
            command[field] = value;
            if let Err(e) = Command::from_json(command.clone())
                && e.message.contains("unknown field")
            {
                command.as_object_mut().expect("an object").remove(field);
            }
        }
        if rig.run(&[command]).is_err() {
            proptest::prop_assert_eq!(rig.control.config(), &before);
        }
        proptest::prop_assert_eq!(&rig.stored(), rig.control.config());
    }
}
