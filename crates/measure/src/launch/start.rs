//! The start of the trainer's main process, in the launcher.

use super::job::Job;
use super::limit::Memory;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Starts it in a process group of its own, with nothing to read. Returns its id, or why it cannot
/// be started. Its standard output and error are the launcher's own.
pub fn start_trainer(job: &Job, memory: &mut Memory) -> Result<i32, String> {
    let program = Path::new(&job.program);
    if let Some(cwd) = &job.cwd
        && !Path::new(cwd).is_dir()
    {
        return Err(format!("its working directory {} is not a directory", cwd.display()));
    }
    let mut command = Command::new(program);
    command.args(&job.args).envs(job.env.iter().map(|(key, value)| (key, value)));
    command.stdin(Stdio::null()).process_group(0);
    if let Some(cwd) = &job.cwd {
        command.current_dir(cwd);
    }
    let mut spawn = || memory.start(|| command.spawn());
    let spawned = match &job.cpus {
        None => spawn(),
        Some(cpus) => on_cpus(cpus, spawn)?,
    };
    match spawned? {
        Ok(mut child) => {
            let pid = i32::try_from(child.id())
                .map_err(|_| format!("process id {} overflows", child.id()))?;
            if let Err(reason) = memory.bound(pid) {
                let _ = child.kill(); // it may have ended
                let _ = child.wait();
                return Err(reason);
            }
            Ok(pid)
        }
        Err(error) => {
            let hint = if error.kind() == io::ErrorKind::NotFound && program.exists() {
                " (it exists, but not the interpreter or loader that it asks for)"
            } else {
                ""
            };
            Err(format!("cannot run {}: {error}{hint}", program.display()))
        }
    }
}

/// Does something on some cores only, and goes back to all the others: a child that was started
/// stays there, the launcher must not take its time.
#[cfg(target_os = "linux")]
fn on_cpus<T>(cpus: &[usize], start: impl FnOnce() -> T) -> Result<T, String> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let mut wanted = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(format!("there is no core {cpu}"));
        }
        wanted.set(cpu);
    }
    let all = sched_getaffinity(None).map_err(|error| format!("cannot read the cores: {error}"))?;
    if let Some(cpu) = cpus.iter().find(|&&cpu| !all.is_set(cpu)) {
        return Err(format!("core {cpu} is not there or not for this process"));
    }
    sched_setaffinity(None, &wanted).map_err(|error| format!("cannot run on {cpus:?}: {error}"))?;
    let result = start();
    // Were it refused, the launcher would only share the trainer's cores.
    let _ = sched_setaffinity(None, &all);
    Ok(result)
}

#[cfg(not(target_os = "linux"))]
fn on_cpus<T>(_cpus: &[usize], _start: impl FnOnce() -> T) -> Result<T, String> {
    Err("this system cannot bind a process to cores".to_owned())
}
