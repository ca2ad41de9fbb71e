"""PTX, the assembly that Triton hands to NVIDIA's assembler, as Python functions of some warps.

    source = translate(ptx).source       # def piece_0(w): ... PIECES: see `emulated_warps.Team`

A register is an array of (warps, 32), one element a lane: many warps that are at the same place
take a step together, because a step of numpy costs a thousand numbers little more than thirty. The
32 lanes of a warp go in step, so a branch that only some of them take cannot be followed: that
raises Diverged when it happens. A piece ends before each access to global memory, at each barrier
of the program and at branches, and returns the number of the piece that comes next. What later
pieces read of its registers is kept in `w.registers`.

Only what Triton makes of this project's kernels is understood; anything else raises Unknown, with
the line. Arithmetic is IEEE float32, a fused multiply-add rounds once; `ex2.approx` and `div.full`
are exact here, a few units in the last place off on a GPU.

Source: NVIDIA, "Parallel Thread Execution ISA", for every instruction and for the fragments of
`mma`, `ldmatrix` and `stmatrix`.
"""

import itertools
import re
from dataclasses import dataclass, field


class Unknown(NotImplementedError):
    """An instruction that the translator does not know."""


KINDS = {"pred": "B", "b16": "U2", "b32": "U4", "b64": "U8"}  # what a register is at rest
WIDTHS = {
    "B": 8, "U1": 8, "U2": 16, "U4": 32, "U8": 64, "I2": 16, "I4": 32, "I8": 64,
    "F2": 16, "F4": 32, "F2x2": 32, "F4x2": 64,
}  # fmt: skip
COMPUTES = {
    "s16": "I2", "s32": "I4", "s64": "I8", "u16": "U2", "u32": "U4", "u64": "U8", "b16": "U2",
    "b32": "U4", "b64": "U8", "f16": "F2", "f16x2": "F2x2", "f32": "F4", "f32x2": "F4x2",
}  # fmt: skip
REGISTER = re.compile(r"%(?:p|rs|rd|r|f|fd)\d+")
SPECIAL = re.compile(r"%(tid|ctaid|nctaid)\.([xyz])")
NAME = re.compile(r"\b(?:p|rs|rd|r|f|fd)\d+\b")  # a register, in Python


@dataclass
class Instruction:
    """One line: `guard` is a predicate register or None, `opcode` its parts."""

    text: str
    guard: str | None
    negated: bool
    opcode: list[str]
    operands: list[str]


@dataclass
class Program:
    """A kernel: its name, parameters in order with their sizes in bytes, and the Python source."""

    name: str
    parameters: list[int] = field(default_factory=list)
    constants: dict = field(default_factory=dict)
    registers: dict = field(default_factory=dict)  # name -> what it is at rest
    source: str = ""


def split_operands(text):
    """`{a, b}, [c], d` at the commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def recast(expression, kind, to):
    """The same bits as another kind; loads and stores may be narrower than their register."""
    if kind == to:
        return expression
    if "x2" in kind + to:  # two floats in a register, computed with as 64 floats
        return f"{expression}.view({to[:2]})"
    if WIDTHS[kind] == WIDTHS[to]:
        return f"{expression}.view({to})"
    bits = f"{expression}.view(U{WIDTHS[kind] // 8}).astype(U{WIDTHS[to] // 8})"
    return bits if to.startswith("U") else f"{bits}.view({to})"


LOCAL = {"pred": "%p", "b16": "%rs", "b32": "%r", "b64": "%rd"}
"""What registers are called that PTX written by hand declares for itself."""


def with_names_of_their_own(ptx):
    """Every block of PTX written by hand with registers and labels that nobody else has."""
    numbers = itertools.count(1_000_000)  # the compiler does not get as far

    def rename(block):
        text = block.group()
        for kind, name in re.findall(r"\.reg \.(\w+) ([a-z]\w*);", text):
            text = text.replace(f".reg .{kind} {name};", "")
            text = re.sub(rf"\b{name}\b(?!\.)", f"{LOCAL[kind]}{next(numbers)}", text)
        for label in re.findall(r"^\s*([a-z]\w*):", text, re.MULTILINE):
            text = re.sub(rf"\b{label}\b", f"$local{next(numbers)}", text)
        return text

    return re.sub(r"// begin inline asm.*?// end inline asm", rename, ptx, flags=re.DOTALL)


def parse(ptx):
    """The kernel's name, its parameters' sizes, registers by prefix, and lines: labels and code."""
    ptx = with_names_of_their_own(ptx)
    ptx = re.sub(r"//[^\n]*", "", ptx)
    entry = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)[^{]*\{(.*)\n\}", ptx, re.DOTALL)
    name, parameters, body = entry.groups()
    sizes = [int(bits) // 8 for bits in re.findall(r"\.param\s+\.[a-z](\d+)", parameters)]
    registers = {
        prefix: KINDS[kind] for kind, prefix in re.findall(r"\.reg \.(\w+)\s+(%\w+)<", body)
    }
    lines = []
    for line in re.split(r"[;\n]", body):
        line = line.strip()
        while match := re.match(r"(\$\w+):\s*", line):
            lines.append(match.group(1))
            line = line[match.end() :]
        if not line or line.startswith((".loc", ".reg", ".pragma", ".section", ".file", "{", "}")):
            continue
        guard = re.match(r"@(!?)(%p\d+)\s+", line)
        code = line[guard.end() :] if guard else line
        opcode, operands = re.match(r"(\S+)\s*(.*)", code).groups()
        lines.append(
            Instruction(
                line, guard and guard.group(2), bool(guard and guard.group(1)),
                opcode.split("."), split_operands(operands),
            )
        )  # fmt: skip
    return name, sizes, registers, lines


class Translator:
    """Writes the Python source of one kernel."""

    def __init__(self, ptx):
        name, sizes, self.kinds, self.lines = parse(ptx)
        self.program = Program(name, sizes)
        self.home = self._homes()
        self.out = []

    def _homes(self):
        """Registers that hold floats, mostly, rest as floats: a view costs as much as a sum."""
        votes = {}
        for line in self.lines:
            if isinstance(line, str):
                continue
            is_float = "f32" in line.opcode and line.opcode[0] not in ("mma", "setp", "cvt")
            neutral = line.opcode[0] in ("mov", "ld", "st", "bra", "shfl", "selp", "mma", "cvt")
            for register in REGISTER.findall(" ".join(line.operands)):
                votes[register] = votes.get(register, 0) + (1 if is_float else 0 if neutral else -1)
        return {r: "F4" for r, vote in votes.items() if vote > 0 and self._rest(r) == "U4"}

    def _rest(self, register):
        return self.kinds[re.match(r"%[a-z]+", register).group()]

    def kind_of(self, register):
        return self.home.get(register) or self._rest(register)

    def constant(self, value, kind):
        """A name for a typed constant."""
        bits = value % (1 << WIDTHS[kind])
        name = f"{kind}_{bits:x}"
        self.program.constants[name] = (kind, bits)
        return name

    def read(self, operand, kind):
        """An expression for an operand as an array, or a scalar constant, of this kind."""
        if REGISTER.fullmatch(operand):
            return recast(operand[1:], self.kind_of(operand), kind)
        if special := SPECIAL.fullmatch(operand):
            return f"w.{special[1]}('{special[2]}')" + ("" if kind == "U4" else f".view({kind})")
        if operand == "%clock":
            return "w.clock()"
        if operand == "global_smem":
            return self.constant(0, kind)
        if operand.startswith("0f"):
            return self.constant(int(operand[2:], 16), kind)
        if re.fullmatch(r"-?(\d+|0x[0-9A-Fa-f]+)", operand):
            return self.constant(int(operand, 0), kind)
        raise Unknown(f"operand {operand!r}")

    def emit(self, text):
        self.out.append(text)

    def write(self, instruction, register, expression, kind):
        """Assign, under the guard if there is one."""
        if register == "_":
            return
        name, at_rest = register[1:], self.kind_of(register)
        if kind != at_rest:
            expression = recast(f"({expression})", kind, at_rest)
        if instruction.guard:
            guard = self.guard(instruction)
            expression = f"w.where({guard}, {expression}, {name})"
        self.emit(f"{name} = {expression}")

    def guard(self, instruction):
        if not instruction.guard:
            return "None"
        return ("~" if instruction.negated else "") + instruction.guard[1:]

    def address(self, operand, kind):
        """`[%r1+8]`, `[ %rd2 + 0 ]`, `[global_smem+64]`."""
        base, _, offset = operand.strip("[] ").replace(" ", "").partition("+")
        if base == "global_smem":
            return f"w.all({self.constant(int(offset or 0), kind)})"
        where = self.read(base, kind)
        return where if int(offset or 0) == 0 else f"{where} + {self.constant(int(offset), kind)}"

    def translate(self):
        pieces, labels = self.pieces()
        self.looks = {n for n, piece in enumerate(pieces) if piece and isinstance(piece[0], tuple)}
        bodies, ways = [], []  # of each piece: its lines, the last of which returns; who may follow
        for number, piece in enumerate(pieces):
            self.out = []
            following = self.piece(piece, number, labels)
            bodies.append(self.out)
            ways.append(following)
        source = []
        for number, (body, needed) in enumerate(zip(bodies, self.live(bodies, ways), strict=True)):
            source += self.function(number, body, needed)
        source.append(f"PIECES = [{', '.join(f'piece_{n}' for n in range(len(bodies)))}]")
        self.program.source = "\n".join(source) + "\n"
        return self.program

    def pieces(self):
        """The code cut where others may go on meanwhile; label -> number of the piece there."""
        pieces, labels = [[]], {}
        for line in self.lines:
            if isinstance(line, str):
                if pieces[-1]:
                    pieces.append([])
                labels[line] = len(pieces) - 1
                continue
            is_look = line.opcode[0] == "ld" and "acquire" in line.opcode
            if pieces[-1] and (is_look or self.touches_global_memory(line)):
                pieces.append([])
            if is_look:  # looked at first, in a piece of its own that is begun anew after sleep
                pieces += [[]]
                pieces[-2].append(("look", line))
            pieces[-1].append(line)
            if line.opcode[0] in ("bra", "ret") or self.is_barrier(line):
                pieces.append([])
        return pieces, labels

    def touches_global_memory(self, i):
        if i.opcode[0] in ("ld", "st"):
            return i.opcode[1] != "param" and self.space_of(i) == "global"
        return i.opcode[0] in ("atom", "red") or (i.opcode[0] == "cp" and "global" in i.opcode)

    @staticmethod
    def is_barrier(i):
        return i.opcode[:2] == ["bar", "sync"] and i.operands == ["0"]

    def piece(self, lines, number, labels):
        """Emits a piece of code; returns the pieces that may follow."""
        for line in lines:
            if isinstance(line, tuple):
                where = self.address(line[1].operands[1], "U8")
                guard = self.guard(line[1])
                self.emit(f"return w.look({where}, {guard}, {number}, {number + 1})")
                return [number, number + 1]
            if line.opcode[0] == "bra":
                label = line.operands[0]
                target = labels[label]
                if not line.guard:
                    self.emit(f"return {target}")
                    return [target]
                # The way out of a loop that polls is a label of PTX written by hand. A look with
                # acquire order knows by itself when to sleep.
                how = "branch"
                if label.startswith("$local") and target > number:
                    is_look = number + 1 in self.looks
                    how = "branch_or_look" if is_look else "branch_or_look_again"
                self.emit(f"return w.{how}({self.guard(line)}, {target}, {number + 1})")
                return [target, number + 1]
            if line.opcode[0] == "ret":
                self.emit("return w.end()")
                return []
            if self.is_barrier(line):
                self.emit(f"return w.barrier({number + 1})")
                return [number + 1]
            self.instruction(line)
        self.emit(f"return {number + 1}")
        return [number + 1]

    @staticmethod
    def reads_and_writes(line):
        """The registers in a line of Python: `r3 = r1 + r2`, `w.store_global(rd1, ...)`."""
        to, equals, value = line.partition(" = ")
        if equals and NAME.fullmatch(to):
            return set(NAME.findall(value)), {to}
        return set(NAME.findall(line)), set()

    def live(self, bodies, ways):
        """Of each piece: what it reads before it writes, what it writes that others read."""
        first, written = [], []
        for body in bodies:
            first.append(set())
            written.append(set())
            for line in body:
                reads, writes = self.reads_and_writes(line)
                first[-1] |= reads - written[-1]
                written[-1] |= writes
        before = [set(reads) for reads in first]  # alive where a piece begins
        after = [set() for _ in bodies]
        has_changed = True
        while has_changed:
            has_changed = False
            for number in reversed(range(len(bodies))):
                for way in ways[number]:
                    if way < len(bodies):
                        after[number] |= before[way]
                alive = first[number] | (after[number] - written[number])
                has_changed |= len(alive) > len(before[number])
                before[number] = alive
        return [(f, w, w & a) for f, w, a in zip(first, written, after, strict=True)]

    def function(self, number, body, needed):
        """The lines of a piece, with registers fetched before and kept after it."""
        first, written, kept = needed
        for register in sorted(first | kept):
            self.program.registers[register] = self.kind_of(f"%{register}")
        lines = [f"def piece_{number}(w):", "    f, rows = w.registers, w.rows"]
        for register in sorted(first):
            # All rows are a view, and what is kept below must not change what was read here.
            copy = ".copy()" if register in written else ""
            lines.append(f"    {register} = f['{register}'][rows]{copy}")
        lines += [f"    {line}" for line in body[:-1]]
        lines += [f"    f['{register}'][rows] = {register}" for register in sorted(kept)]
        return [*lines, f"    {body[-1]}"]

    def instruction(self, i):
        method = getattr(self, f"do_{i.opcode[0]}", None)
        if method is None:
            raise Unknown(i.text)
        try:
            method(i)
        except (KeyError, IndexError, ValueError) as error:
            raise Unknown(f"{i.text} ({error!r})") from error

    # Arithmetic. The last part of the opcode is the type: "s32", "f32x2", "b64".

    def typed(self, i):
        """The kind that an instruction computes in and the operands after the first, as such."""
        kind = COMPUTES.get(i.opcode[-1])
        if kind is None or sum(part in COMPUTES for part in i.opcode) > 1:
            raise Unknown(i.text)
        return kind, [self.read(operand, kind) for operand in i.operands[1:]]

    def infix(self, i, operator):
        kind, (a, b) = self.typed(i)
        self.write(i, i.operands[0], f"{a} {operator} {b}", kind)

    def do_add(self, i, operator="+"):
        if i.opcode[-1] in ("bf16", "f16") and "f32" in i.opcode:  # the first operand is that
            widen = "widen" if i.opcode[-1] == "bf16" else "widen_half"
            wide = f"w.{widen}({self.read(i.operands[1], 'U2')})"
            other = self.read(i.operands[2], "F4")
            self.write(i, i.operands[0], f"{wide} {operator} {other}", "F4")
        else:
            self.infix(i, operator)

    def do_sub(self, i):
        self.do_add(i, "-")

    def do_mul(self, i):
        if i.opcode[1] == "wide":
            self.write(i, i.operands[0], self.wide(i), self.wide_kind(i))
        else:
            self.infix(i, "*")

    def wide_kind(self, i):
        return "I8" if i.opcode[-1] == "s32" else "U8"

    def wide(self, i):
        """The product in twice the bits."""
        kind, narrow = self.wide_kind(i), "I4" if i.opcode[-1] == "s32" else "U4"
        a, b = i.operands[1:3]
        if not REGISTER.fullmatch(a):
            a, b = b, a
        a = f"{self.read(a, narrow)}.astype({kind})"
        if REGISTER.fullmatch(b):
            b = f"{self.read(b, narrow)}.astype({kind})"
        else:
            b = self.read(b, kind)
        return f"{a} * {b}"

    def do_mad(self, i):
        if i.opcode[1] == "wide":
            kind = self.wide_kind(i)
            self.write(i, i.operands[0], f"{self.wide(i)} + {self.read(i.operands[3], kind)}", kind)
        else:
            kind, (a, b, c) = self.typed(i)
            self.write(i, i.operands[0], f"{a} * {b} + {c}", kind)

    def do_fma(self, i):
        self.call(i, "w.fma")

    def do_div(self, i):
        self.infix(i, "/")

    def call(self, i, function):
        kind, given = self.typed(i)
        self.write(i, i.operands[0], f"{function}({', '.join(given)})", kind)

    def do_ex2(self, i):
        self.call(i, "w.exp2")

    def do_abs(self, i):
        self.call(i, "abs")

    def do_neg(self, i):
        self.call(i, "-")

    def do_max(self, i):
        self.call(i, "w.maximum")

    def do_min(self, i):
        self.call(i, "w.minimum")

    # Bits

    def logic(self, i, operator):
        if i.opcode[-1] == "pred":
            a, b = (operand[1:] for operand in i.operands[1:])
            self.write(i, i.operands[0], f"{a} {operator} {b}", "B")
        else:
            self.infix(i, operator)

    def do_and(self, i):
        self.logic(i, "&")

    def do_or(self, i):
        self.logic(i, "|")

    def do_xor(self, i):
        self.logic(i, "^")

    def do_not(self, i):
        kind = "B" if i.opcode[-1] == "pred" else self.typed(i)[0]
        self.write(i, i.operands[0], f"~{self.read(i.operands[1], kind)}", kind)

    def shift(self, i, operator):
        kind, (a, _) = self.typed(i)
        amount = i.operands[2]
        if REGISTER.fullmatch(amount):
            amount = f"{self.read(amount, 'U4')}.astype({kind})"
        else:
            amount = self.constant(int(amount, 0), kind)
        self.write(i, i.operands[0], f"{a} {operator} {amount}", kind)

    def do_shl(self, i):
        self.shift(i, "<<")

    def do_shr(self, i):
        self.shift(i, ">>")

    def do_bfe(self, i):
        kind = "I4" if i.opcode[-1] == "s32" else "U4"
        a, position, length = i.operands[1:]
        up = 32 - int(position) - int(length)
        down = 32 - int(length)
        a = f"({self.read(a, 'U4')} << {self.constant(up, 'U4')}).view({kind})"
        self.write(i, i.operands[0], f"{a} >> {self.constant(down, kind)}", kind)

    # Choices

    def do_setp(self, i):
        operator = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
        if i.opcode[-1] in ("bf16", "bf16x2"):
            at_rest = "U2" if i.opcode[-1] == "bf16" else "U4"
            a, b = (f"w.widen({self.read(o, at_rest)}.view(U2))" for o in i.operands[1:])
        else:
            _, (a, b) = self.typed(i)
        compared = f"{a} {operator[i.opcode[1]]} {b}"
        if "|" in i.operands[0]:  # two predicates, of the lower and of the upper half
            for place, register in enumerate(i.operands[0].split("|")):
                self.write(i, register, f"({compared})[:, {place}::2]", "B")
        else:
            self.write(i, i.operands[0], compared, "B")

    def do_selp(self, i):
        kind = {"f32": "F4", "b16": "U2", "b32": "U4", "b64": "U8"}[i.opcode[-1]]
        a, b = (self.read(operand, kind) for operand in i.operands[1:3])
        self.write(i, i.operands[0], f"w.where({i.operands[3][1:]}, {a}, {b})", kind)

    # Moves and conversions

    def do_mov(self, i):
        to, what = i.operands
        if what.startswith("{"):
            halves = split_operands(what.strip("{}"))
            kind, narrow = ("U4", "U2") if i.opcode[-1] == "b32" else ("U8", "U4")
            low, high = (self.read(half, narrow) for half in halves)
            self.write(i, to, f"w.pack({low}, {high}, {kind})", kind)
        elif to.startswith("{"):
            kind, narrow = ("U4", "U2") if i.opcode[-1] == "b32" else ("U8", "U4")
            for place, half in enumerate(split_operands(to.strip("{}"))):
                self.write(
                    i, half, f"{self.read(what, kind)}.view({narrow})[:, {place}::2]", narrow
                )
        else:
            kind = "B" if i.opcode[-1] == "pred" else f"U{int(i.opcode[-1][1:]) // 8}"
            value = self.read(what, kind)
            self.write(i, to, value if REGISTER.fullmatch(what) else f"w.all({value})", kind)

    def do_cvt(self, i):
        to, *given = i.operands
        match i.opcode[1:]:
            case ["u64", "u32"]:
                self.write(i, to, f"{self.read(given[0], 'U4')}.astype(U8)", "U8")
            case ["s64", "s32"]:
                self.write(i, to, f"{self.read(given[0], 'I4')}.astype(I8)", "I8")
            case ["u32", "u16"]:
                self.write(i, to, f"{self.read(given[0], 'U2')}.astype(U4)", "U4")
            case ["u16", "u32"]:
                self.write(i, to, f"{self.read(given[0], 'U4')}.astype(U2)", "U2")
            case ["u32", "u64"]:
                self.write(i, to, f"{self.read(given[0], 'U8')}.astype(U4)", "U4")
            case ["f32", "bf16"]:
                self.write(i, to, f"w.widen({self.read(given[0], 'U2')})", "F4")
            case ["rn", "bf16", "f32"]:
                self.write(i, to, f"w.narrow({self.read(given[0], 'F4')}).astype(U2)", "U2")
            case ["f32", "f16"]:
                self.write(i, to, f"w.widen_half({self.read(given[0], 'U2')})", "F4")
            case ["rn", "f16", "f32"]:
                self.write(i, to, f"w.narrow_half({self.read(given[0], 'F4')}).astype(U2)", "U2")
            case ["rn", ("bf16x2" | "f16x2") as kind, "f32"]:  # the first becomes the upper half
                how = "narrow" if kind == "bf16x2" else "narrow_half"
                high, low = (f"w.{how}({self.read(operand, 'F4')})" for operand in given)
                self.write(i, to, f"({high} << {self.constant(16, 'U4')}) | {low}", "U4")
            case _:
                raise Unknown(i.text)

    def do_shfl(self, i):
        """`shfl.sync.bfly.b32 to, from, mask, 31, -1`, or `idx` with the lane to take from."""
        source, lane, width, members = i.operands[1:]
        if i.opcode[2] not in ("bfly", "idx") or (width, members) != ("31", "-1"):
            raise Unknown(i.text)
        a, lane = self.read(source, "U4"), self.read(lane, "U4")
        lane = f"w.lanes ^ {lane}" if i.opcode[2] == "bfly" else f"{lane} % 32"
        self.write(i, i.operands[0], f"w.shuffle({a}, {lane})", "U4")

    def do_vote(self, i):
        """`vote.sync.any.pred to, from, 0xffffffff`."""
        to, source, members = i.operands
        if i.opcode[2:] != ["any", "pred"] or members != "0xffffffff":
            raise Unknown(i.text)
        self.write(i, to, f"w.any({source[1:]})", "B")

    # Memory

    def shape_of(self, i):
        """How many registers and of which kind: `v4.b32`."""
        count = next((int(part[1:]) for part in i.opcode if re.fullmatch(r"v\d", part)), 1)
        return count, f"U{int(i.opcode[-1][1:]) // 8}"

    def space_of(self, i):
        """`shared::cta` is shared memory, too."""
        parts = [part.partition(":")[0] for part in i.opcode]
        return "global" if "global" in parts else parts[1]

    def do_ld(self, i):
        if i.opcode[1] == "param":
            number = int(re.search(r"_param_(\d+)", i.operands[1]).group(1))
            kind = f"U{int(i.opcode[-1][1:]) // 8}"
            self.write(i, i.operands[0], f"w.parameter({number}, {kind})", kind)
            return
        count, kind = self.shape_of(i)
        space = self.space_of(i)
        guard = self.guard(i)
        where = self.address(i.operands[1], "U8" if space == "global" else "U4")
        order = next((f", {how}=True" for how in ("acquire", "relaxed") if how in i.opcode), "")
        self.emit(f"t = w.load_{space}({where}, {kind}, {count}, {guard}{order})")
        for place, register in enumerate(split_operands(i.operands[0].strip("{} "))):
            self.write(i, register, f"t[{place}]", kind)

    def do_st(self, i):
        _, kind = self.shape_of(i)
        space = self.space_of(i)
        where = self.address(i.operands[0], "U8" if space == "global" else "U4")
        values = ", ".join(
            self.read(operand, kind) for operand in split_operands(i.operands[1].strip("{} "))
        )
        order = ", relaxed=True" if "relaxed" in i.opcode else ""
        self.emit(f"w.store_{space}({where}, {kind}, ({values},), {self.guard(i)}{order})")

    def do_atom(self, i):
        """`atom.global.gpu.release.add.u32 to, [where], what`."""
        to, where, what = i.operands
        self.add_to_counter(i, where, what)
        self.write(i, to, "t", "U4")

    def do_red(self, i):
        self.add_to_counter(i, *i.operands)

    def add_to_counter(self, i, where, what):
        order = next(
            part for part in i.opcode if part in ("release", "acquire", "acq_rel", "relaxed")
        )
        if "add" not in i.opcode:
            raise Unknown(i.text)
        value = self.read(what, "U4")
        self.emit(f"t = w.add({self.address(where, 'U8')}, {value}, {self.guard(i)}, {order!r})")

    def do_cp(self, i):
        """`cp.async.cg.shared.global [to], [from], 16, bytes`, commit_group, wait_group."""
        if i.opcode[2] == "commit_group":
            self.emit("w.commit()")
        elif i.opcode[2] == "wait_group":
            self.emit(f"w.wait_group({int(i.operands[0])})")
        else:
            to, source = self.address(i.operands[0], "U4"), self.address(i.operands[1], "U8")
            if int(i.operands[2], 0) != 16:
                raise Unknown(i.text)
            size = self.read(i.operands[3], "U4") if len(i.operands) > 3 else "w.all(U4(16))"
            self.emit(f"w.copy({to}, {source}, {size}, {self.guard(i)})")

    def do_bar(self, i):
        if i.opcode[1] != "warp":  # the lanes of a warp go in step
            raise Unknown(i.text)

    def do_ldmatrix(self, i):
        registers = split_operands(i.operands[0].strip("{} "))
        turned = "trans" in i.opcode
        where = self.address(i.operands[1], "U4")
        self.emit(f"t = w.load_matrices({where}, {len(registers)}, {turned})")
        for place, register in enumerate(registers):
            self.write(i, register, f"t[{place}]", "U4")

    def do_stmatrix(self, i):
        registers = split_operands(i.operands[1].strip("{} "))
        values = ", ".join(self.read(register, "U4") for register in registers)
        where = self.address(i.operands[0], "U4")
        self.emit(f"w.store_matrices({where}, ({values},), {'trans' in i.opcode})")

    def do_mma(self, i):
        """`mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 d, a, b, c`."""
        kind = i.opcode[i.opcode.index("col") + 2]
        d, a, b, c = (split_operands(operand.strip("{} ")) for operand in i.operands)
        a, b = ([self.read(register, "U4") for register in part] for part in (a, b))
        c = [self.read(register, "F4") for register in c]
        parts = ", ".join(f"({', '.join(part)},)" for part in (a, b, c))
        self.emit(f"t = w.multiply_{kind}({parts})")
        for place, register in enumerate(d):
            self.write(i, register, f"t[{place}]", "F4")


def translate(ptx):
    """A Program with the Python source of the kernel in this PTX."""
    return Translator(ptx).translate()
