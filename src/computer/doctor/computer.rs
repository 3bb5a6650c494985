//! Whether the rest of the computer is fit: the build, the system, processor, memory, disk, limits. Knows no GPU.

use crate::computer::doctor::{Check, Concerns, Patient, State, memory_size};
use crate::computer::machine::walls::Trial;
use crate::engine::cache::bytes::size;

/// Bytes of Stable Diffusion 1.x in single precision: 1.07 thousand million parameters.
const MODEL: u64 = 4_300_000_000;
/// Bytes for a training of it on the processor: the model, gradients of the LoRA, and activations of one picture.
const TRAINING: u64 = 8_000_000_000;
/// Bytes of a cache with a base model's merge, latents, checkpoints and samples.
const ROOM: u64 = 10_000_000_000;
/// Bytes without which hardly anything runs.
const NO_ROOM: u64 = 500_000_000;
/// Files that may be open: what Linux gives by default.
const OPEN_FILES: u64 = 1024;

/// The checks `processor`, `memory`, `disk`, `limits` and `walls`.
pub fn checks(patient: &Patient<'_>) -> Vec<Check> {
    vec![processor(patient), memory(patient), disk(patient), limits(patient), walls(patient)]
}

/// Without them a command is as safe as what reads a project is free of mistakes: that is no fault of the computer.
fn walls(patient: &Patient<'_>) -> Check {
    let check = |state, summary: String| Check::new("walls", Concerns::Computer, state, summary);
    const HOLD: &str = "a command that needs no card writes below its project and its cache alone";
    match patient.walls {
        Trial::Held => check(State::Ok, format!("{HOLD}, and starts no program but git and the loader of programs")),
        Trial::HeldForFiles { script } => check(State::Ok, HOLD.to_string())
            .seen(format!("`{}` is a script, so that any program may be started", script.display())),
        Trial::None(why) => {
            let check =
                check(State::Ok, "the kernel keeps no command within its project (Landlock, from Linux 5.19 on)".to_string());
            check.seen(why).relevant(false)
        }
        Trial::Broken(what) => check(State::Degraded, format!("the kernel's Landlock does not do what it promises: {what}"))
            .fix("run nothing of strangers until the kernel is another one", "loramill doctor --all"),
    }
}

/// The check `build`: blocked if this program was built without networks, and so can neither train nor draw.
pub fn build(patient: &Patient<'_>) -> Check {
    let check = |state, summary: &str| Check::new("build", Concerns::Processor, state, summary);
    if !patient.build.networks {
        return check(State::Blocked, "this build has no networks: it crops, scales and captions, and cannot train or draw")
            .fix("cargo install --path . (without --no-default-features)", "loramill doctor");
    }
    check(State::Ok, if patient.build.libtorch { "networks, with libtorch" } else { "networks, on the processor" })
}

/// The check `system`: distribution and kernel. Unverified under WSL, where Windows hides the GPU.
pub fn system(patient: &Patient<'_>) -> Check {
    let system = &patient.machine.system;
    let name = system.distribution.as_deref().unwrap_or("Linux");
    let check = |state, summary: String| Check::new("system", Concerns::Computer, state, summary);
    if system.is_wsl {
        let has_gpu = patient.host.kernel().device(std::path::Path::new("/dev/dxg")).is_some();
        let libraries = patient.host.list("/usr/lib/wsl/lib");
        let cuda = libraries.iter().any(|name| name.starts_with("libcuda.so"));
        let check = check(State::Unverified, "this is Linux as a guest of Windows, which hides the GPU from these checks".into())
            .seen(format!("kernel {}", system.kernel))
            .seen(format!("/dev/dxg is {}", if has_gpu { "there" } else { "not there" }))
            .seen(format!("Windows {} CUDA", if cuda { "brings" } else { "does not bring" }));
        return check.fix(
            "NVIDIA: use it as it is. AMD: better start Linux itself; in Windows few of its cards are passed on",
            "loramill doctor",
        );
    }
    let summary = match system.container {
        Some(_) => format!("{name} in a container, kernel {}", system.kernel),
        None => format!("{name}, kernel {}", system.kernel),
    };
    let check = check(State::Ok, summary);
    match system.container {
        Some(sign) => check.seen(format!("this is a container: {sign}")),
        None => check,
    }
}

fn processor(patient: &Patient<'_>) -> Check {
    let processor = &patient.machine.processor;
    let check = |state, summary: String| Check::new("processor", Concerns::Processor, state, summary);
    let half = match (processor.computes_fp16(), processor.computes_bf16()) {
        (true, true) => "it computes in fp16 and bf16 too",
        (true, false) => "it computes in fp16 too",
        (false, true) => "it computes in bf16 too; fp16 is for weights and files, with fp32 arithmetic",
        (false, false) => "fp16 and bf16 are for weights and files, with fp32 arithmetic",
    };
    let count = format!("{} threads on {} cores", processor.threads, processor.cores);
    match processor.vectors() {
        Some(vectors) => check(State::Ok, format!("{}, {count}, {vectors}", processor.name)).seen(half),
        None => check(State::Degraded, "neither AVX2 nor NEON: networks are many times slower".to_string()).seen(count).fix(
            "use another computer for `train` and `sample`; in a virtual machine, pass the host's processor on",
            "grep -c avx2 /proc/cpuinfo",
        ),
    }
}

fn memory(patient: &Patient<'_>) -> Check {
    let memory = &patient.machine.memory;
    let check = |state, summary: String| Check::new("memory", Concerns::Processor, state, summary);
    let swap = if memory.swap == 0 { "no swap".to_string() } else { format!("{} of swap", size(memory.swap)) };
    let summary = format!("{}, {} of them free, {swap}", memory_size(memory.total), memory_size(memory.available));
    if memory.total < TRAINING {
        return check(
            State::Degraded,
            format!("{summary}: a training of Stable Diffusion 1.x on the processor wants {}", size(TRAINING)),
        )
        .fix("train on a GPU, or at 256 pixels; examples/tiny needs 0.2 GB", "free -h");
    }
    if memory.available < MODEL {
        return check(State::Degraded, format!("{summary}: Stable Diffusion 1.x is {}", size(MODEL)))
            .fix("end other programs", "free -h");
    }
    check(State::Ok, summary)
}

fn disk(patient: &Patient<'_>) -> Check {
    let cache = patient.cache.display();
    let check = |state, summary: String| Check::new("disk", Concerns::Computer, state, summary);
    let Some(space) = patient.host.kernel().space(patient.cache) else {
        return check(State::Unverified, format!("it cannot be seen how much room `{cache}` has"));
    };
    if !space.is_writable {
        return check(State::Blocked, format!("you may not write to `{cache}`"))
            .fix("loramill --cache DIR, or export LORAMILL_CACHE=DIR", format!("touch {cache}"));
    }
    let summary = format!("{} of {} are free for the cache, `{cache}`", size(space.free), size(space.total));
    let state = match space.free {
        free if free < NO_ROOM => State::Blocked,
        free if free < ROOM => State::Degraded,
        _ => State::Ok,
    };
    let check = check(state, summary);
    let check = if space.is_network { check.seen("it is on another computer, and only as fast as the network") } else { check };
    if state == State::Ok {
        check
    } else {
        check.fix("loramill gc --yes, or export LORAMILL_CACHE=DIR with a folder on another disk", format!("df -h {cache}"))
    }
}

fn limits(patient: &Patient<'_>) -> Check {
    let kernel = patient.host.kernel();
    let check = |state, summary: String| Check::new("limits", Concerns::Computer, state, summary);
    let shown = |limit: Option<u64>, as_text: fn(u64) -> String| limit.map_or_else(|| "no limit".to_string(), as_text);
    let shared = kernel.space(std::path::Path::new("/dev/shm")).map(|space| format!("/dev/shm: {}", size(space.total)));
    let files = kernel.most_open_files();
    let check = match files {
        Some(files) if files < OPEN_FILES => check(State::Degraded, format!("only {files} files may be open at a time"))
            .fix(format!("ulimit -n {OPEN_FILES}; for good in /etc/security/limits.conf"), "ulimit -n"),
        _ => check(State::Ok, format!("open files: {}", shown(files, |files| files.to_string()))),
    };
    let check = check.seen(format!("locked memory: {}", shown(kernel.most_locked_bytes(), size)));
    shared.into_iter().fold(check, Check::seen)
}
