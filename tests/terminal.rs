//! A person at a terminal, and a batch job that must never wait for one.

use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::rig::gateway::{CODE, PASSWORD, keygen};
use crate::rig::job::port_of;
use crate::rig::traffic::check_out;
use crate::rig::{Gateway, LIMIT, Outcome, Pty, Site, eventually, has, process, skip, wait_until};

/// The site, or the reason why this machine has none.
macro_rules! ready {
    ($site:expr) => {
        match $site {
            Ok(site) => site,
            Err(why) => skip!("{why}"),
        }
    };
}

const PASSPHRASE: &str = "a passphrase";
const WITH_PASSWORD: [&str; 1] = ["PasswordAuthentication yes"];
const WITH_TWO_FACTORS: [&str; 2] = ["UsePAM yes", "KbdInteractiveAuthentication yes"];

/// What people do at a prompt; the screen tells how it went, and whether the
/// terminal shows again what is typed.
const SCRIPT: &str = r#"
    eval $(licfwd -F $CONFIG $OPTIONS gw 127.0.0.1:$PORT)
    code=$?
    case $(stty -a) in (*' -echo '* | *-icanon* | *-isig*) echo 'terminal: spoilt' ;; esac
    echo "value: $MLM_LICENSE_FILE."
    [ $code = 0 ] && read -r _
    exit $code
"#;

/// Goal: a passphrase is asked for as ssh asks, is not shown, and may be
/// mistyped twice.
#[test]
fn passphrase_of_an_encrypted_key() {
    let site = ready!(with_encrypted_key());
    let mut pty = at_a_terminal(&site);
    let question = format!("Enter passphrase for key '{}': ", encrypted_key(&site).display());
    pty.expect(&question);
    pty.enter("not it");
    pty.expect(&question);
    pty.enter(PASSPHRASE);
    works(pty);
}

/// Goal: after three wrong passphrases: 77.
#[test]
fn wrong_passphrases() {
    let site = ready!(with_encrypted_key());
    let mut pty = at_a_terminal(&site);
    for _ in 0..3 {
        pty.expect("Enter passphrase for key ");
        pty.enter("not it");
    }
    fails(77, pty, "wrong passphrase");
}

/// Goal: a password, which is typed once and not shown.
#[test]
fn password() {
    let site = ready!(asking(&WITH_PASSWORD));
    let mut pty = at_a_terminal(&site);
    pty.expect(&format!("{}@127.0.0.1's password: ", site.gateway.user()));
    // Backspace and control-U mend what was mistyped.
    pty.press("wrong\u{15}");
    pty.enter(&format!("{PASSWORD}x\u{7f}"));
    works(pty);
}

/// Goal: after as many wrong passwords as ssh would take: 77.
#[test]
fn wrong_passwords() {
    let site = ready!(asking(&WITH_PASSWORD));
    let mut pty = at_a_terminal(&site);
    for _ in 0..3 {
        pty.expect("'s password: ");
        pty.enter("not it");
    }
    fails(77, pty, "password");
    assert_eq!(failed_logins(&site), 3);
}

/// Goal: password and second factor, each asked for in the gateway's words.
#[test]
fn two_factors() {
    let site = ready!(asking(&WITH_TWO_FACTORS));
    let mut pty = at_a_terminal(&site);
    pty.expect("Password: ");
    pty.enter(PASSWORD);
    pty.expect("Password required for ");
    pty.enter(CODE);
    works(pty);
}

/// Goal: a wrong second factor: 77, after as many rounds as ssh would take.
#[test]
fn wrong_second_factor() {
    let site = ready!(asking(&WITH_TWO_FACTORS));
    let mut pty = at_a_terminal(&site);
    for _ in 0..3 {
        pty.expect("Password: ");
        pty.enter(PASSWORD);
        pty.expect("Password required for ");
        pty.enter("654321");
    }
    fails(77, pty, "keyboard-interactive");
}

/// Goal: a gateway that wants a key and then a password gets both.
#[test]
fn key_and_password() {
    let lines = ["PasswordAuthentication yes", "AuthenticationMethods publickey,password"];
    let site = ready!(asking(&lines));
    let public = site.gateway.client().read("id_ed25519.pub");
    site.gateway.authorize(&public);
    let mut pty = at_a_terminal(&site);
    pty.expect("'s password: ");
    pty.enter(PASSWORD);
    works(pty);
}

/// Goal: Ctrl-C at the question: 130 at once, and the terminal as it was.
#[test]
fn interrupt_at_the_question() {
    let site = ready!(asking(&WITH_PASSWORD));
    let mut pty = at_a_terminal(&site);
    pty.expect("'s password: ");
    pty.press("half a pass\u{3}");
    fails(130, pty, "");
    assert_eq!(failed_logins(&site), 0);
}

/// Goal: end of file at the question sends nothing: 77.
#[test]
fn end_of_file_at_the_question() {
    let site = ready!(asking(&WITH_PASSWORD));
    let mut pty = at_a_terminal(&site);
    pty.expect("'s password: ");
    pty.press("\u{4}");
    fails(77, pty, "refused");
    assert_eq!(failed_logins(&site), 0);
}

/// Goal: at the prompt of an interactive shell, which lives on with its tunnel;
/// both end together.
#[test]
fn interactive_shell() {
    let site = ready!(asking(&WITH_PASSWORD));
    let mut bash = site.job.command("bash");
    let settings = site.job.directory().write("bashrc", "PS1='ready> '\n");
    bash.arg("--rcfile").arg(settings).arg("-i");
    bash.env("CONFIG", site.gateway.config());
    bash.env("PORT", site.server.port().to_string());
    let mut pty = Pty::start(&site.job, &bash);
    pty.expect("ready> ");
    pty.enter("eval $(licfwd -F $CONFIG gw 127.0.0.1:$PORT)");
    pty.expect("'s password: ");
    pty.enter(PASSWORD);
    pty.expect("ready> ");
    pty.enter("echo value: $MLM_LICENSE_FILE.");
    pty.expect("\nvalue: ");
    let port = port_of(&pty.expect("."));
    pty.expect("ready> ");
    check_out(port, "MATLAB").expect("a seat");
    // Control-C at the prompt is not the daemon's.
    pty.press("\u{3}");
    pty.expect("ready> ");
    check_out(port, "MATLAB").expect("a seat");
    pty.enter("exit 0");
    assert_eq!(pty.wait().code, 0);
    let nobody = || site.job.processes().is_empty();
    wait_until("the tunnel follows its shell", LIMIT, nobody);
}

/// Goal: a command that is started once the password has been typed has the terminal,
/// as it was; control-C at the question ends all.
#[test]
fn password_before_a_command() {
    let site = ready!(asking(&WITH_PASSWORD));
    let text = SCRIPT.replacen("eval $(", "", 1).replacen(
        "$PORT)",
        r#"$PORT -- sh -c 'echo "command: $MLM_LICENSE_FILE."; read -r _'"#,
        1,
    );
    let mut pty = Pty::start(&site.job, &script(&site, &text));
    pty.expect("'s password: ");
    pty.press("half a pass\u{3}");
    fails(130, pty, "");
    assert_eq!(failed_logins(&site), 0);
    site.job.wait_until_empty();

    let mut pty = Pty::start(&site.job, &script(&site, &text));
    pty.expect("'s password: ");
    pty.enter(PASSWORD);
    pty.expect("command: ");
    check_out(port_of(&pty.expect(".")), "MATLAB").expect("a seat");
    pty.enter("for the command");
    pty.expect("value: .");
    pty.enter("");
    let outcome = pty.wait();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    is_clean(&outcome);
}

/// Goal: what was typed is never sent twice: after the gateway's restart nobody
/// tries it, and the ports stay bound.
#[test]
fn typed_password_is_not_sent_twice() {
    for (lines, answers) in
        [(&WITH_PASSWORD[..], &[PASSWORD][..]), (&WITH_TWO_FACTORS[..], &[PASSWORD, CODE][..])]
    {
        let mut site = ready!(asking(lines));
        site.options = ["--log", "log"].map(String::from).into();
        let mut pty = at_a_terminal(&site);
        for answer in answers {
            pty.expect("assword");
            pty.enter(answer);
        }
        pty.expect("value: ");
        let port = port_of(&pty.expect("."));
        let before = site.gateway.log().len();
        site.gateway.restart();
        wait_until("licfwd gives up", LIMIT, || {
            site.job.directory().read("log").contains("giving up")
        });
        let log = site.gateway.log().split_off(before);
        for word in ["Accepted", "Failed password", "keyboard-interactive"] {
            assert!(!log.contains(word), "{word}: {log}");
        }
        TcpListener::bind(("127.0.0.1", port)).expect_err("a port that stays bound");
        TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let client = check_out(port, "MATLAB");
        assert!(client.is_err(), "clients must be closed at once");
        pty.enter("");
        assert_eq!(pty.wait().code, 0);
    }
}

/// Goal: nor does a fault forget that somebody had to type: one login is refused, and no more.
#[test]
fn a_fault_forgets_no_person() {
    let mut site = ready!(asking(&WITH_PASSWORD));
    site.options = ["--log", "log"].map(String::from).into();
    let mut pty = at_a_terminal(&site);
    pty.expect("assword");
    pty.enter(PASSWORD);
    pty.expect("value: ");
    pty.expect(".");
    let log = || site.job.directory().read("log");
    wait_until("it serves", LIMIT, || log().contains("started: "));
    let before = site.connections();
    process::signal("SEGV", &[site.job.daemon()]);
    wait_until("licfwd gives up", LIMIT, || log().contains("giving up"));
    assert_eq!(site.connections() - before, 1, "{}", log());
    pty.enter("");
    assert_eq!(pty.wait().code, 0);
}

/// Goal: a passphrase is kept, so that a tunnel comes back by itself.
#[test]
fn typed_passphrase_is_kept() {
    let mut site = ready!(with_encrypted_key());
    let mut pty = at_a_terminal(&site);
    pty.expect("Enter passphrase for key ");
    pty.enter(PASSPHRASE);
    pty.expect("value: ");
    let port = port_of(&pty.expect("."));
    site.gateway.restart();
    wait_until("the tunnel is back", LIMIT, || check_out(port, "MATLAB").is_ok());
    pty.enter("");
    assert_eq!(pty.wait().code, 0);
}

/// Goal: a hop on the way asks as the gateway does, however slowly one types.
#[test]
fn hop_that_asks() {
    let (hop, mut site) = ready!(behind_a_hop());
    site.options.extend(["--timeout", "8"].map(String::from));
    let mut pty = at_a_terminal(&site);
    pty.expect("'s password: ");
    pty.enter("not it");
    pty.expect("'s password: ");
    assert!(!eventually(Duration::from_secs(9), || pty.has_ended()));
    pty.enter(PASSWORD);
    works(pty);
    assert_eq!(hop.log().matches("Failed password").count(), 1);
}

/// Goal: who does not answer a hop has nothing sent to it, not even an empty
/// password, and is not asked again.
#[test]
fn hop_that_is_not_answered() {
    let (hop, site) = ready!(behind_a_hop());
    for (key, code) in [("\u{3}", 130), ("\u{4}", 77)] {
        let mut pty = at_a_terminal(&site);
        pty.expect("'s password: ");
        pty.press(key);
        fails(code, pty, "");
        site.job.wait_until_empty();
    }
    let batch = site.job.run(&mut in_a_batch_job(&site, SCRIPT));
    assert_eq!(batch.code, 77, "{batch:?}");
    assert!(!hop.log().contains("password for"), "{}", hop.log());
}

/// Goal: SSH_ASKPASS answers without a terminal where it is told to, and only
/// there; its refusal is the person's.
#[test]
fn askpass() {
    let site = ready!(asking(&WITH_PASSWORD));
    let asked = site.job.directory().file("asked");
    let yes = format!("echo \"$1\" >>{}; echo '{PASSWORD}'", asked.display());
    let (yes, no) = (program(&site, "yes", &yes), program(&site, "no", "exit 1"));
    for (program, require, code) in [
        (&yes, "force", 0),
        (&yes, "never", 77),
        (&yes, "prefer", 77),
        (&no, "force", 77),
        (&PathBuf::from("/nonexistent"), "force", 77),
    ] {
        let mut call = in_a_batch_job(&site, SCRIPT);
        call.env("SSH_ASKPASS", program);
        call.env("SSH_ASKPASS_REQUIRE", require);
        let outcome = site.job.run(&mut call);
        assert_eq!(outcome.code, code, "{program:?} {require}: {outcome:?}");
        site.job.end();
    }
    let question = format!("{}@127.0.0.1's password: \n", site.gateway.user());
    assert_eq!(fs::read_to_string(asked).expect("one question"), question);
}

/// Goal: whatever stdin is, who is at a terminal is asked there, as by ssh: in a script
/// that reads a file, and by a program that types for him (`sshpass`).
#[test]
fn stdin_is_not_the_terminal() {
    let site = ready!(asking(&WITH_PASSWORD));
    let text = SCRIPT.replace("127.0.0.1:$PORT)", "127.0.0.1:$PORT </dev/null)");
    for program in ["licfwd", "ssh"] {
        let text = match program {
            "ssh" => "ssh -F $CONFIG gw -W 127.0.0.1:$PORT </dev/null; echo ended",
            _ => &text,
        };
        let mut pty = Pty::start(&site.job, &script(&site, text));
        pty.expect("'s password: ");
        pty.enter(PASSWORD);
        match program {
            "ssh" => drop(pty.expect("ended")),
            _ => works(pty),
        }
    }
    if !has("sshpass") {
        skip!("not installed: sshpass");
    }
    let text = format!(
        "eval $(sshpass -p '{PASSWORD}' licfwd -F $CONFIG gw 127.0.0.1:$PORT); echo $MLM_LICENSE_FILE; exec sleep 1000"
    );
    let running = site.job.spawn(&mut script(&site, &text));
    wait_until("it is announced", LIMIT, || running.stdout().ends_with('\n'));
    check_out(port_of(&running.stdout()), "MATLAB").expect("a seat");
}

/// Goal: in the background of a terminal nobody is asked, which would stop the job.
#[test]
fn background_of_a_terminal() {
    let site = ready!(asking(&WITH_PASSWORD));
    let text = "set -m; licfwd -F $CONFIG gw 127.0.0.1:$PORT & wait $!; echo code: $?.";
    let mut pty = Pty::start(&site.job, &script(&site, text));
    let said = pty.expect("code: 77.");
    assert!(said.contains("nobody is here"), "{said}");
}

/// Goal: a batch job is never asked and never hangs, with whatever on stdin.
#[test]
fn batch_job_is_never_asked() {
    let site = ready!(asking(&WITH_TWO_FACTORS));
    let outcome = site.job.run(&mut in_a_batch_job(&site, SCRIPT));
    assert_eq!(outcome.code, 77, "{outcome:?}");
    assert!(outcome.stderr.contains("nobody is here"), "{outcome:?}");
    // Neither is somebody who says so at a terminal.
    for options in ["-o BatchMode=yes", "-o NumberOfPasswordPrompts=0"] {
        let site = Site {
            options: options.split(' ').map(String::from).collect(),
            ..ready!(asking(&WITH_TWO_FACTORS))
        };
        fails(77, at_a_terminal(&site), "refused");
    }
}

/// A site for a person to type at.
fn site(gateway: Gateway) -> Result<Site, String> {
    Pty::check()?;
    Ok(Site::behind(gateway))
}

/// No key gets in.
fn asking(lines: &[&str]) -> Result<Site, String> {
    let site = site(Gateway::asking(lines)?)?;
    site.gateway.authorize("");
    Ok(site)
}

fn with_encrypted_key() -> Result<Site, String> {
    let mut site = site(Gateway::start())?;
    let key = encrypted_key(&site);
    let public = keygen(&key, &["-t", "ed25519", "-N", PASSPHRASE]);
    site.gateway.authorize(&public);
    site.options = vec!["-i".into(), key.display().to_string()];
    Ok(site)
}

/// A gateway that takes the key, behind one that wants a password.
fn behind_a_hop() -> Result<(Gateway, Site), String> {
    let hop = Gateway::asking(&WITH_PASSWORD)?;
    hop.authorize("");
    let mut site = site(Gateway::start())?;
    let config = [("hop", &hop), ("gw", &site.gateway)].map(|(name, gateway)| {
        let block = gateway.client().read("ssh_config");
        block.replace("Host gw\n", &format!("Host {name}\n"))
    });
    site.job.directory().write("config", &config.concat());
    site.options = ["-F", "config", "-J", "hop"].map(String::from).into();
    Ok((hop, site))
}

fn encrypted_key(site: &Site) -> PathBuf {
    site.gateway.client().file("encrypted")
}

/// The script at a terminal.
fn at_a_terminal(site: &Site) -> Pty {
    Pty::start(&site.job, &script(site, SCRIPT))
}

fn script(site: &Site, text: &str) -> Command {
    let mut command = site.script("sh", text);
    command.env("OPTIONS", site.options.join(" "));
    command
}

/// The script where there is no terminal, also where the tests are run at one.
fn in_a_batch_job(site: &Site, text: &str) -> Command {
    let mut command = site.job.client("setsid", &site.gateway);
    command.args(["--wait", "sh", "-c", text]);
    command.env("CONFIG", site.gateway.config());
    command.env("PORT", site.server.port().to_string());
    command.env("OPTIONS", site.options.join(" "));
    command
}

/// The tunnel stands, nothing that was typed stands on the screen, and the
/// script ends well.
#[track_caller]
fn works(mut pty: Pty) {
    pty.expect("value: ");
    check_out(port_of(&pty.expect(".")), "MATLAB").expect("a seat");
    pty.enter("");
    let outcome = pty.wait();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    is_clean(&outcome);
}

fn failed_logins(site: &Site) -> usize {
    site.gateway.log().matches("Failed password").count()
}

/// A shell script of that name.
fn program(site: &Site, name: &str, text: &str) -> PathBuf {
    let text = format!("#!/bin/sh\n{text}\n");
    let path = site.job.directory().write(name, &text);
    fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("chmod");
    path
}

#[track_caller]
fn fails(code: i32, pty: Pty, words: &str) {
    let outcome = pty.wait();
    assert_eq!(outcome.code, code, "{outcome:?}");
    assert!(outcome.stdout.contains(words), "{outcome:?}");
    assert!(outcome.stdout.contains("value: ."), "{outcome:?}");
    is_clean(&outcome);
}

/// Nothing secret stands on the screen, and the terminal is as it was.
#[track_caller]
fn is_clean(outcome: &Outcome) {
    for word in [PASSWORD, PASSPHRASE, CODE, "not it", "half a", "spoilt"] {
        assert!(!outcome.stdout.contains(word), "{word}: {outcome:?}");
    }
}
