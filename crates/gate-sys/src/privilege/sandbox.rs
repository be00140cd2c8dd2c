//! The sandbox of a process that reads requests: seccomp for system calls, Landlock for files.
//!
//! Seccomp refuses by a list what no worker ever needs and what attacks on kernels begin with; everything else passes,
//! so that no other libc, resolver or allocator is surprised. Landlock lets files be read anywhere (name services read
//! where they like), lets files be written and made only where the caller says, and lets nothing be executed. Sockets
//! and what is open already are left alone.
//!
//! Invariant: it cannot be undone, and it holds for every thread that is started later.

use std::collections::BTreeMap;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Answered with `EPERM`.
const DENIED: &[c_long] = &[
    // Becoming another program, or looking into one.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Another view of the files.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Namespaces, in which a process may become root again.
    libc::SYS_setns,
    libc::SYS_unshare,
    // The kernel itself.
    libc::SYS_kexec_load,
    #[cfg(not(all(target_env = "musl", target_arch = "aarch64")))]
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_memfd_secret,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_syslog,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Flags of clone(2) that make a namespace.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Closes to this process what it will never need. Files can be written and made in the directories `writable` and
/// below, and in files that are named there.
///
/// Call it last: after the change of user and with everything open, before the first further thread. It sets
/// `no_new_privs`. Where the kernel knows newer parts of Landlock (truncation by path, device ioctls, signals to
/// processes outside), they are closed too; what it must know is the first version, of Linux 5.13.
///
/// # Errors
/// Why it cannot be had on this machine, with what to do about it. The process may be confined in part then.
pub fn sandbox(writable: &[&Path]) -> Result<(), String> {
    super::one_thread().map_err(|error| format!("sandbox: {error}"))?;
    confine_files(writable)?;
    // Before the other, which might refuse what sets it up.
    let (clone3, calls) = filters().map_err(|error| format!("sandbox: cannot build the seccomp filter: {error}"))?;
    for filter in [clone3, calls] {
        seccompiler::apply_filter(&filter).map_err(|error| {
            format!(
                "sandbox: the kernel takes no seccomp filter ({error}); it needs CONFIG_SECCOMP_FILTER and a container \
                 that allows it, or set sandbox = false"
            )
        })?;
    }
    Ok(())
}

fn confine_files(writable: &[&Path]) -> Result<(), String> {
    let lacking = |why: &dyn std::fmt::Display| {
        format!(
            "sandbox: no Landlock on this kernel ({why}); it needs Linux 5.13 or later with `landlock` among its \
             security modules (lsm=landlock,… on the kernel's command line) and a container that allows it, or set \
             sandbox = false"
        )
    };
    let rules = rules().map_err(|error| lacking(&error))?;
    let rules = allow(rules, Path::new("/"), AccessFs::ReadFile | AccessFs::ReadDir)?;
    let rules = writable.iter().try_fold(rules, |rules, path| {
        let file = AccessFs::WriteFile | AccessFs::Truncate;
        let access = if path.is_dir() { file | AccessFs::MakeReg } else { file };
        allow(rules, path, access)
    })?;
    let status = rules.restrict_self().map_err(|error| lacking(&error))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(lacking(&"nothing is enforced")),
    }
}

/// What is denied where no rule allows it.
fn rules() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        // Not the ninth version: a name service may be asked through a unix socket.
        .handle_access(AccessFs::from_all(ABI::V5))?
        .scope(Scope::Signal)?
        .create()
}

fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, String> {
    let opened = PathFd::new(path).map_err(|error| format!("sandbox: {error}"))?;
    let rule = PathBeneath::new(opened, access);
    rules.add_rule(rule).map_err(|error| format!("sandbox: cannot allow {}: {error}", path.display()))
}

/// Two filters, since one has one answer.
fn filters() -> Result<(BpfProgram, BpfProgram), seccompiler::BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let build = |rules, errno: libc::c_int| {
        let deny = SeccompAction::Errno(errno.unsigned_abs());
        BpfProgram::try_from(SeccompFilter::new(rules, SeccompAction::Allow, deny, arch)?)
    };
    // Its flags are in memory, where no filter can look. Told that it does not exist, libc takes clone for threads.
    let clone3 = build(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let with = |flag: libc::c_int| {
        let flag = u64::from(flag.unsigned_abs());
        let is_set = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag)?;
        SeccompRule::new(vec![is_set])
    };
    rules.insert(libc::SYS_clone, NAMESPACES.into_iter().map(with).collect::<Result<_, _>>()?);
    let calls = build(rules, libc::EPERM)?;
    Ok((clone3, if cfg!(target_arch = "x86_64") { without_x32(calls) } else { calls }))
}

/// On x86-64 every system call has a second number, for 32-bit pointers, which the list does not name: all are refused.
fn without_x32(filter: BpfProgram) -> BpfProgram {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    /// Where the number stands in what a filter is shown.
    const NUMBER: u32 = 0;
    const X32: u32 = 0x4000_0000;
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let first = [step(LOAD_WORD, 0, NUMBER), step(JUMP_IF_AT_LEAST, 1, X32), step(RETURN, 0, refuse)];
    first.into_iter().chain(filter).collect()
}

#[cfg(test)]
mod tests;
