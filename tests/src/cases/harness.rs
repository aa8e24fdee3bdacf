//! The tests' own tools, tried on the kernel's bridge in the switch's place: what they show of the
//! switch is worth as much as this.

use crate::frame::{Mac, dot1ad, dot1q, has_mark, marked, tags};
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Result, bpf, cmd, ensure};

pub const CASES: &[Case] = &[
    Case::new("harness-cables", "machines, ping and iperf3 over the kernel's bridge", cables),
    Case::new("harness-tags", "sent tags are seen as sent, in the bytes or beside them", seen_tags),
    Case::new(
        "harness-xdp",
        "a foreign XDP program is visible and goes with its owner",
        foreign_xdp,
    ),
];

/// The kernel's bridge over these interfaces.
fn kernel_bridge(ports: &[&str]) -> Result<()> {
    cmd::run(&["ip", "link", "add", "kbr", "type", "bridge"])?;
    cmd::run(&["ip", "link", "set", "dev", "kbr", "up"])?;
    for port in ports {
        cmd::run(&["ip", "link", "set", "dev", port, "master", "kbr"])?;
    }
    Ok(())
}

fn cables(lab: &Lab) -> Result<()> {
    let h1 = lab.host("h1", "10.0.0.1/24")?;
    let h2 = lab.host("h2", "10.0.0.2/24")?;
    h1.cannot_reach(&h2.address)?;
    kernel_bridge(&["h1", "h2"])?;
    h1.ping(&h2.address, 5)?;
    let _server = super::tcp::serve(&h2)?;
    let bytes = super::tcp::measure(&h1, &h2.address, &["-n", "8M"])?;
    ensure!(bytes >= 4 << 20, "only {bytes} bytes arrived");
    Ok(())
}

fn seen_tags(lab: &Lab) -> Result<()> {
    let (h1, h2) = (lab.host("h1", "")?, lab.host("h2", "")?);
    kernel_bridge(&["h1", "h2"])?;
    let (from, to) = (h1.raw()?, h2.raw()?);
    for (n, sent) in [&[][..], &[dot1q(5)], &[dot1ad(7), dot1q(5)], &[dot1q(0)]].iter().enumerate()
    {
        let mark = format!("<tags-{n}>");
        from.send(&marked(Mac::BROADCAST, h1.mac, sent, &mark))?;
        let got = tags(&to.expect(&mark)?);
        ensure!(got == *sent, "sent {sent:x?}, got {got:x?}");
    }
    let held = bpf::hold_tag_beside("h1", "eth0", 7)?;
    from.send(&marked(Mac::BROADCAST, h1.mac, &[], "<beside>"))?;
    let got = tags(&to.expect("<beside>")?);
    ensure!(got == [dot1q(7)], "held beside, got {got:x?}");
    from.send(&marked(Mac::BROADCAST, h1.mac, &[dot1q(9)], "<double>"))?;
    let got = tags(&to.expect("<double>")?);
    ensure!(got == [dot1q(7), dot1q(9)], "held beside another, got {got:x?}");
    drop(held);
    from.send(&marked(Mac::BROADCAST, h1.mac, &[], "<end>"))?;
    let frames = to.until_mark("<end>")?;
    ensure!(
        frames.iter().any(|f| has_mark(f, "<end>") && tags(f).is_empty()),
        "the program stayed"
    );
    Ok(())
}

fn foreign_xdp(lab: &Lab) -> Result<()> {
    let _h1 = lab.host("h1", "")?;
    let program = bpf::xdp_in_the_way("h1")?;
    ensure!(
        cmd::run(&["ip", "link", "show", "dev", "h1"])?.contains("xdpgeneric"),
        "it cannot be seen"
    );
    drop(program);
    ensure!(!cmd::run(&["ip", "link", "show", "dev", "h1"])?.contains("xdp"), "it is left");
    Ok(())
}
