//! `licfwd ... -- command`: the process becomes the command, and the tunnel serves it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::rig::job::port_of;
use crate::rig::traffic::check_out;
use crate::rig::{
    LIMIT, Outcome, Promise, Running, Site, eventually, free_port, has, process, skip, wait_until,
};

/// How soon a command that waits for all of its children must end.
const AT_ONCE: Promise = Promise::seconds(2);
/// How soon the tunnel must be gone after its command.
const GONE: Promise = Promise::seconds(10);
/// How long the tests look out for what must not happen.
const A_WHILE: Duration = Duration::from_millis(1500);

/// The end of a command: tells the port, and waits for the test.
pub const HOLD: &str = r#"echo "$MLM_LICENSE_FILE"; read -r _ <gate"#;

/// `licfwd OPTIONS gw TARGET -- COMMAND`.
fn call(site: &Site, options: &[&str], command: &[&str]) -> Command {
    let mut call = site.call(options);
    call.arg("--").args(command);
    call
}

/// The same, run to its end.
#[track_caller]
fn run(site: &Site, options: &[&str], command: &[&str]) -> Outcome {
    site.job.run(&mut call(site, options, command))
}

/// The port in the first line that a running command has printed.
#[track_caller]
pub fn port(running: &Running) -> u16 {
    let mut line = String::new();
    wait_until("the command tells its port", LIMIT, || {
        let told = running.stdout();
        line = told.lines().next().unwrap_or_default().to_owned();
        told.contains('\n')
    });
    port_of(&line)
}

/// Nothing of licfwd is left soon.
#[track_caller]
pub fn tunnel_is_gone(site: &Site) {
    let ours = ["licfwd", "licfwd-keeper", "ssh", "nc"];
    GONE.wait_until("nothing is left of the tunnel", || {
        ours.iter().all(|name| site.job.processes_named(name).is_empty())
    });
}

/// Goal: the command has no child that it did not start, whatever carries the
/// connection; one that waits for all of them ends.
#[test]
fn command_has_no_children() {
    let site = Site::new();
    let direct: &[&str] = &[];
    let proxied = format!("ProxyCommand=nc 127.0.0.1 {}", site.gateway.port());
    for options in [direct, &["-o", &proxied]] {
        let start = Instant::now();
        let script = "open my $list, '<', \"/proc/$$/task/$$/children\"; print <$list>;
                      1 while wait() != -1; print 'done'";
        let outcome = run(&site, options, &["perl", "-e", script]);
        assert_eq!((outcome.code, &*outcome.stdout), (0, "done"), "{outcome:?}");
        AT_ONCE.kept("bring up, wait for no children", start.elapsed());
        site.job.wait_until_empty();
    }
}

/// Goal: a fault in the tunnel's process is not the command's: it is served again.
#[test]
fn a_fault_in_the_tunnel() {
    let site = Site::new();
    let made = site.job.run(site.job.command("mkfifo").arg("gate"));
    assert_eq!(made.code, 0, "{made:?}");
    let running = site.job.spawn(&mut call(&site, &[], &["sh", "-c", HOLD]));
    let (port, tunnel) = (port(&running), site.job.daemon());
    process::signal("SEGV", &[tunnel]);
    GONE.wait_until("the command is served again", || check_out(port, "MATLAB").is_ok());
    assert_eq!(site.job.daemon(), tunnel);
    process::signal("KILL", &[running.pid()]);
    tunnel_is_gone(&site);
}

/// Goal: the exit code is the command's once it has started, and before that licfwd's;
/// nothing but the command writes to standard output.
#[test]
fn exit_codes() {
    let site = Site::new();
    let not_to_be_run = site.job.directory().write("data", "#!/bin/sh\n");
    let not_to_be_run = not_to_be_run.to_str().expect("a name");
    for (command, code, stdout, stderr) in [
        (&["sh", "-c", "echo ran; exit 7"][..], 7, "ran\n", ""),
        (&["sh", "-c", "kill $$"], 143, "", ""),
        (&["no-such-program"], 127, "", "licfwd: cannot run no-such-program: "),
        (&["./no-such-program"], 127, "", "licfwd: cannot run ./no-such-program: "),
        (&[not_to_be_run], 126, "", "Permission denied"),
        (&["/"], 126, "", "Permission denied"),
    ] {
        let outcome = run(&site, &[], command);
        assert_eq!((outcome.code, &*outcome.stdout), (code, stdout), "{command:?}: {outcome:?}");
        assert!(outcome.stderr.contains(stderr), "{command:?}: {outcome:?}");
        assert_eq!(outcome.stderr.is_empty(), stderr.is_empty(), "{command:?}: {outcome:?}");
    }
    // As a shell sees it.
    let text = "$CALL sh -c 'kill $$' >/dev/null 2>&1; echo $?";
    assert_eq!(site.job.run(&mut site.calling("sh", text)).stdout, "143\n");

    let touch = ["touch", "it ran"];
    for (options, code) in [
        (&["-o", "UserKnownHostsFile=/dev/null"][..], 76),
        (&["-f"], 64),
        (&["--bogus"], 64),
        (&["-F", "/nonexistent/ssh_config"], 78),
        // The gateway's own.
        (&["-L", &format!("{}:h:1", site.gateway.port())], 73),
    ] {
        let outcome = run(&site, options, &touch);
        assert_eq!((outcome.code, &*outcome.stdout), (code, ""), "{options:?}: {outcome:?}");
        assert!(outcome.stderr.starts_with("licfwd: "), "{options:?}: {outcome:?}");
    }
    let mut down = site.job.licfwd(&site.gateway);
    let target = format!("127.0.0.1:{}", free_port());
    let down = site.job.run(down.args(["--tries", "1", "gw", &target, "--"]).args(touch));
    assert_eq!((down.code, &*down.stdout), (69, ""), "{down:?}");
    let checked = run(&site, &["--check"], &touch);
    assert_eq!((checked.code, &*checked.stdout), (0, ""), "{checked:?}");
    assert!(checked.stderr.contains("nothing is left of this check"), "{checked:?}");
    assert!(!site.job.directory().file("it ran").exists());
    site.job.wait_until_empty();
}

/// Goal: what a caller may do to standard output and error needs no thought.
#[test]
fn any_redirection_will_do() {
    let site = Site::new();
    // A job on several nodes is worth a note.
    let text = "export SLURM_JOB_NUM_NODES=2; call() { $CALL sh -c 'echo $MLM_LICENSE_FILE'; }
         call >/dev/null 2>&1 || exit 1
         call >&- 2>&- <&- || exit 2
         call >file || exit 3
         call 2>&1";
    let outcome = site.job.run(&mut site.calling("sh", text));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    port_of(&site.job.directory().read("file"));
    let (notes, value) = outcome.stdout.trim().rsplit_once('\n').expect("a note and a value");
    port_of(value);
    assert!(notes.starts_with("licfwd: "), "{outcome:?}");
    // The other way round it would be held open until the tunnel ends.
    let refused = run(&site, &["--log", "/dev/stdout"], &["true"]);
    assert_eq!(refused.code, 64, "{refused:?}");
}

/// Tells in Perl all that a process has from its caller.
const PROBE: &str = r#"
    use Cwd; $| = 1;
    sub of { open my $file, '<', "/proc/self/$_[0]" or return "none\n"; local $/; <$file> }
    printf "%o %s %s\n", umask, getcwd, join '|', @ARGV;
    print grep { /^(Sig[^Q]|Shd|PPid|NoNewPrivs|Seccomp|Cpus_allowed)/ } split /^/, of('status');
    print join(' ', (split ' ', of('stat'))[3..7]), "\n", of('limits');
    print map { of($_) } qw(timerslack_ns oom_score_adj coredump_filter);
    for my $fd (sort glob '/proc/self/fd/*') {
        my ($number, $to) = ($fd =~ /(\d+)$/, readlink $fd);
        print "$number $to ", of("fdinfo/$number") =~ /(flags:.*)/, "\n" if $to !~ m{^/proc/};
    }
    print of('environ') =~ tr/\0/\n/r;"#;

/// Runs two probes as they are (Perl itself does not ignore CHLD), and behind a licfwd whose call stands in the arguments, with
/// the same of everything.
const TWICE: &str = r#"
    use POSIX;
    $SIG{$_} = 'IGNORE' for qw(HUP USR1 TTOU IO);
    sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR2, SIGALRM, SIGTERM, SIGCHLD));
    my @probes = (['DEFAULT', 'perl', '-e', $ENV{PROBE}, 'one two', ''],
                  ['IGNORE', 'grep', '-E', '^Sig[^Q]|^Shd', '/proc/self/status']);
    for my $call (['env'], [@ARGV]) {
        for my $probe (@probes) {
            my ($child_signal, @probe) = @$probe;
            $SIG{CHLD} = $child_signal;
            my $pid = fork // die; exec @$call, @probe unless $pid; waitpid $pid, 0;
        }
        syswrite STDOUT, "====\n";
    }"#;

/// Goal: descriptors, dispositions, mask, umask, limits, directory and environment are
/// the command's as if licfwd had not been there.
#[test]
fn command_has_what_its_caller_gave() {
    let site = Site::new();
    let text = "umask 027; ulimit -S -n 300; ulimit -c 0; echo file >file; mkdir inner; cd inner
         exec 5<../file 7>>../file 9>&1; exec perl -e \"$TWICE\" env $CALL";
    let mut command = site.calling("bash", text);
    command.env("PROBE", PROBE).env("TWICE", TWICE);
    command.env("LD_LIBRARY_PATH", "/nonexistent").env("BASH_FUNC_f%%", "() { :; }");
    let outcome = site.job.run(&mut command);
    let parts: Vec<&str> = outcome.stdout.split("====\n").collect();
    assert_eq!((outcome.code, parts.len()), (0, 3), "{outcome:?}");
    let ours = |line: &&str| line.starts_with("MLM_LICENSE_FILE=");
    assert!(parts[0].contains("SigBlk:\t0000000000016800"), "{outcome:?}");
    let ignored = parts[0].lines().filter_map(|line| line.strip_prefix("SigIgn:\t"));
    let mut ignored = ignored.filter_map(|mask| u64::from_str_radix(mask, 16).ok());
    assert!(ignored.next_back().is_some_and(|mask| mask & 0x1_0201 == 0x1_0201), "{outcome:?}");
    assert_eq!(parts[1].lines().filter(ours).count(), 1, "{outcome:?}");
    let theirs: Vec<&str> = parts[1].lines().filter(|line| !ours(line)).collect();
    let before: Vec<&str> = parts[0].lines().collect();
    for (theirs, before) in theirs.iter().zip(&before) {
        assert_eq!(theirs, before);
    }
    assert_eq!(theirs.len(), before.len(), "{outcome:?}");
}

/// Goal: a pipe and a lock on descriptors of the caller's are the command's alone: both
/// are free when it ends, although the tunnel's processes are still there.
#[test]
fn descriptors_are_not_the_tunnels() {
    let site = Site::new();
    if !has("flock") {
        skip!("flock is not installed");
    }
    site.job.directory().make_pipe("nine");
    site.job.directory().make_pipe("last");
    let text = format!(
        "cat nine & (exec 9>nine 8>lock; flock 8; exec $CALL sh -c 'echo written >&9; {HOLD}')
         wait; echo the reader has seen the end; read -r _ <last"
    );
    let running = site.job.spawn(&mut site.calling("sh", &text));
    wait_until("written", LIMIT, || running.stdout().lines().count() == 2);
    let ours = ["licfwd", "licfwd-keeper", "ssh"];
    let ours: Vec<u32> = ours.iter().flat_map(|name| site.job.processes_named(name)).collect();
    let daemon = site.job.daemon();
    let stdout = fs::read_link(format!("/proc/{}/fd/1", running.pid())).expect("a pipe");
    for pid in &ours {
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten() {
            let to = fs::read_link(fd.path()).unwrap_or_default();
            let name = to.file_name().unwrap_or_default();
            assert!(name != "nine" && name != "lock" && to != stdout, "{pid}: {fd:?} {to:?}");
        }
    }
    let lock = || site.job.run(site.job.command("flock").args(["-n", "lock", "true"])).code;
    assert_eq!(lock(), 1, "the command has the lock");
    process::signal("STOP", &ours);
    site.job.directory().open_pipe("gate");
    let seen = || running.stdout().contains("the reader has seen the end");
    wait_until("the reader sees the end", LIMIT, seen);
    assert_eq!(lock(), 0, "nobody has the lock");
    assert!(ours.iter().all(|pid| process::alive(*pid)) && ours.contains(&daemon));
    process::signal("CONT", &ours);
    site.job.directory().open_pipe("last");
    running.wait(LIMIT);
    tunnel_is_gone(&site);
}

/// Goal: two rules of one make bring up a tunnel each, and share its job slots.
#[test]
fn jobserver_of_make() {
    let site = Site::new();
    if !has("make") {
        skip!("make is not installed");
    }
    let rules = "all: a b\na b:\n\t+@$(CALL) $(MAKE) -f leaves $@1 $@2\n";
    site.job.directory().write("rules", rules);
    site.job.directory().write("leaves", "%:\n\t@echo $@ $$MLM_LICENSE_FILE\n");
    let make = "make --no-print-directory -j2 -f rules CALL=\"$CALL\"";
    let outcome = site.job.run(&mut site.calling("sh", make));
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{outcome:?}");
    let mut lines: Vec<&str> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    let names: Vec<&str> = lines.iter().map(|line| &line[..2]).collect();
    assert_eq!(names, ["a1", "a2", "b1", "b2"], "{outcome:?}");
    assert!(port_of(&lines[0][3..]) != port_of(&lines[2][3..]));
    tunnel_is_gone(&site);
}

/// Goal: with -L alone, and with the tunnel's process id in a variable.
#[test]
fn fixed_port_and_process_id() {
    let site = Site::new();
    let port = free_port();
    let spec = format!("{port}:{}", site.target());
    let text = format!("echo $LICPID; {HOLD}");
    site.job.directory().make_pipe("gate");
    let mut call = site.job.licfwd(&site.gateway);
    call.args(["--pid-var", "LICPID", "-L", &spec, "gw", "--", "sh", "-c", &text]);
    let running = site.job.spawn(&mut call);
    wait_until("printed", LIMIT, || running.stdout().ends_with("\n\n"));
    assert_eq!(running.stdout(), format!("{}\n\n", site.job.daemon()));
    check_out(port, "MATLAB").expect("a seat");
    site.job.directory().open_pipe("gate");
    running.wait(LIMIT);
    tunnel_is_gone(&site);
}

/// Goal: the tunnel lives exactly as long as the process: not as those that it has
/// started, and whatever ends it.
#[test]
fn tunnel_lives_as_long_as_the_process() {
    let site = Site::new();
    // Another program in the same process is the same process.
    let mut command = site.calling("sh", "exec $CALL sh -c 'exec sh -c \"$HOLD\"'");
    let running = site.job.spawn(command.env("HOLD", HOLD));
    let first = port(&running);
    assert!(!eventually(A_WHILE, || check_out(first, "MATLAB").is_err()));
    process::signal("KILL", &[running.pid()]);
    assert_eq!(running.wait(LIMIT).code, 137);
    tunnel_is_gone(&site);

    let text = "$CALL sh -c '{ read -r _ <gate; } >/dev/null 2>&1 & echo $MLM_LICENSE_FILE'";
    let outcome = site.job.run(&mut site.calling("sh", text));
    port_of(&outcome.stdout);
    tunnel_is_gone(&site);
    site.job.directory().open_pipe("gate");
}

/// Goal: as the first process of a container it becomes the command, too, and what ends
/// that ends all.
#[test]
fn first_process_of_a_container() {
    let mut unshare = vec!["unshare", "-pf", "--mount-proc"];
    if !process::is_root() {
        unshare.push("--map-current-user");
    }
    let mut probe = Command::new(unshare[0]);
    let probe = probe.args(&unshare[1..]).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip!("no namespace of one's own: {unshare:?}");
    }
    let site = Site::new();
    let text = format!("{} $CALL sh -c 'echo $MLM_LICENSE_FILE; exit 7'", unshare.join(" "));
    let outcome = site.job.run(&mut site.calling("sh", &text));
    assert_eq!(outcome.code, 7, "{outcome:?}");
    port_of(&outcome.stdout);
    tunnel_is_gone(&site);
}
