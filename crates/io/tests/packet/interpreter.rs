//! Runs classic-BPF programs as the kernel does, refusing what the kernel would refuse.

use flowhop_io::cbpf::Instruction;

/// A frame and what the kernel knows beside it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tag: Option<u16>,
}

/// What the program returns. A load behind the end of the frame ends it with 0.
pub(crate) fn run(program: &[Instruction], frame: &Frame) -> u32 {
    let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        at += 1;
        let mut branch = |test: bool| at += usize::from(if test { jump_true } else { jump_false });
        let load = |base: u32, size: u32| load(frame, base.wrapping_add(operand), size);
        let loaded = match code {
            0x20 => load(0, 4),
            0x28 => load(0, 2),
            0x30 => load(0, 1),
            0x48 => load(x, 2),
            0x50 => load(x, 1),
            _ => Some(a),
        };
        let Some(loaded) = loaded else { return 0 };
        a = loaded;
        match code {
            0x20 | 0x28 | 0x30 | 0x48 | 0x50 => {}
            0x01 => x = operand,
            0xb1 => match load(0, 1) {
                Some(byte) => x = (byte & 15) * 4,
                None => return 0,
            },
            0x54 => a &= operand,
            0x05 => at += operand as usize,
            0x15 => branch(a == operand),
            0x25 => branch(a > operand),
            0x35 => branch(a >= operand),
            0x45 => branch(a & operand != 0),
            0x06 => return operand,
            _ => panic!("operation {code:#x} is not known"),
        }
    }
}

fn load(frame: &Frame, offset: u32, size: u32) -> Option<u32> {
    match offset {
        0xffff_f02c => return Some(u32::from(frame.tag.unwrap_or(0))),
        0xffff_f030 => return Some(u32::from(frame.tag.is_some())),
        _ => {}
    }
    let offset = offset as usize;
    let bytes = frame.bytes.get(offset..offset + size as usize)?;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

/// What the kernel checks before it takes a program.
pub(crate) fn check(program: &[Instruction]) {
    assert!(!program.is_empty() && program.len() <= 4096, "{} instructions", program.len());
    assert_eq!(program[program.len() - 1].code, 0x06, "ends with a verdict");
    for (at, instruction) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match instruction.code {
            0x05 => assert!((instruction.operand as usize) < left, "{at}: {instruction:?}"),
            0x15 | 0x25 | 0x35 | 0x45 => {
                let furthest = instruction.jump_true.max(instruction.jump_false);
                assert!(usize::from(furthest) < left, "{at}: {instruction:?}");
            }
            0x06 => assert!([2, u32::MAX].contains(&instruction.operand)),
            _ => {}
        }
    }
}
