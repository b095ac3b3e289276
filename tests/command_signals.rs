//! Signals and `licfwd ... -- command`: before the command, and at its terminal.

use super::command::{HOLD, port, tunnel_is_gone};
use crate::rig::job::port_of;
use crate::rig::traffic::check_out;
use crate::rig::{LIMIT, Pty, Running, Site, process, skip, wait_until};

/// A call whose way to the gateway waits for the pipe `hold`.
fn held(site: &Site, start: &str) -> Running {
    site.job.directory().make_pipe("hold");
    let proxy = format!("read -r _ <hold; exec nc 127.0.0.1 {}", site.gateway.port());
    let proxy = site.job.directory().write("proxy", &proxy);
    let directory = site.job.directory().path().display();
    let proxy = format!("ProxyCommand=sh -c 'cd {directory}; . {}'", proxy.display());
    let text = format!("{start} $LICFWD -o \"$PROXY\" gw 127.0.0.1:$PORT -- sh -c '{HOLD}'");
    let mut command = site.calling("sh", &text);
    command.env("PROXY", proxy);
    let running = site.job.spawn(&mut command);
    wait_until("on the way to the gateway", LIMIT, || {
        let worker = process::descendants(running.pid());
        let proxy = site.job.processes_named("sh");
        !worker.is_empty() && !proxy.is_empty()
    });
    running
}

/// Goal: a signal before the command has started ends all, with its code; without a
/// warning as well. What was ignored before the call is ignored then, too.
#[test]
fn signals_before_the_command() {
    for (signal, code) in [("TERM", 143), ("INT", 130), ("USR1", 138), ("KILL", 137)] {
        let site = Site::new();
        let running = held(&site, "exec");
        process::signal(signal, &[running.pid()]);
        let outcome = running.wait(LIMIT);
        assert_eq!((outcome.code, &*outcome.stdout), (code, ""), "{signal}: {outcome:?}");
        site.job.wait_until_empty();
    }
    let site = Site::new();
    let running = held(&site, "trap '' USR1; exec nohup");
    let mut family: Vec<u32> = process::descendants(running.pid()).iter().map(|p| p.pid).collect();
    family.push(running.pid());
    for signal in ["HUP", "USR1"] {
        process::signal(signal, &family);
    }
    site.job.directory().open_pipe("hold");
    check_out(port(&running), "MATLAB").expect("a seat");
    process::signal("HUP", &family);
    assert!(process::alive(running.pid()));
    site.job.directory().open_pipe("gate");
    assert_eq!(running.wait(LIMIT).code, 0);
    tunnel_is_gone(&site);
}

/// Goal: the terminal is the command's alone: control-C and control-\ reach it and nobody
/// else, control-Z and fg stop and continue it, and the tunnel serves on.
#[test]
fn keys_of_a_terminal() {
    if let Err(why) = Pty::check() {
        skip!("{why}");
    }
    let site = Site::new();
    site.job.directory().write("bashrc", "PS1='ready> '\n");
    let mut bash = site.calling("bash", "exec bash --rcfile bashrc -i");
    let reader = r#"trap "echo caught INT" INT; trap "echo caught QUIT" QUIT
        echo value: $MLM_LICENSE_FILE.; until read -r line; do :; done; echo read $line"#;
    let mut pty = Pty::start(&site.job, bash.env("READER", reader));
    pty.expect("ready> ");
    pty.enter("$CALL bash -c \"$READER\"");
    pty.expect("\nvalue: ");
    let port = port_of(&pty.expect("."));
    let serves = || check_out(port, "MATLAB").expect("a seat");
    for (key, effect) in [("\u{3}", "caught INT"), ("\u{1c}", "caught QUIT")] {
        pty.press(key);
        pty.expect(effect);
        serves();
    }
    pty.press("\u{1a}");
    pty.expect("Stopped");
    pty.expect("ready> ");
    serves();
    pty.enter("fg");
    pty.expect("bash -c");
    pty.enter("a line");
    pty.expect("read a line");
    pty.expect("ready> ");

    for (key, code) in [("\u{3}", 130), ("\u{1c}", 131)] {
        pty.enter("$CALL sh -c 'echo on its way; exec cat'");
        pty.expect("\non its way");
        pty.press(key);
        pty.expect("ready> ");
        pty.enter("echo code $?.");
        pty.expect(&format!("code {code}."));
        pty.expect("ready> ");
    }
    tunnel_is_gone(&site);
    pty.enter("exit 0");
    assert_eq!(pty.wait().code, 0);
}
