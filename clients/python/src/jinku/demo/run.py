"""The demonstration from an empty directory to a verified ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jinku import receipts
from jinku.accounts import read_entry
from jinku.commands import CommandIds
from jinku.demo.bank import OUTLETS, VAULTS, Bank, make_bank, register
from jinku.demo.expect import alarms_of, find_differences
from jinku.demo.play import Case, Door, make_cases
from jinku.demo.service import DemonstrationFailed, Service
from jinku.demo.show import Teller
from jinku.errors import require_accepted
from jinku.registry import RegistryClient
from jinku.softtags import SoftTag, TagCounters, load
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.v1.registry_pb2 import FreezeTagRequest

SPEED = 30.0
KEY_FILE, RECEIPT_FILE = "realm.key", "receipt.bin"


def prepare(service: Service, teller: Teller) -> tuple[Bank, dict[bytes, SoftTag]]:
    """Founds the realm, starts the service, registers the bank and makes its tags."""
    bank = make_bank()
    teller.step("建立账本、密钥和演示证书", "founding ledger, keys and demonstration certificates")
    service.initialise()
    for _, _, _, _, portal in VAULTS:
        service.issue_portal(portal)
    tags = load(service.personalise([box.order() for box in bank.boxes]))
    checkpoint = service.start()
    key_file = service.directory / KEY_FILE
    key_file.write_text(checkpoint.verifier_key + "\n", encoding="utf-8")
    teller.done(
        f"jinkud 在 {service.target} 运行, 双向 TLS",
        f"jinkud serves {service.target} over mutual TLS",
    )
    teller.step("登记演示银行", "registering the demonstration bank")
    with service.connect("service", "registrar").open() as channel:
        registry = RegistryClient(channel, CommandIds(service.directory / "commands.json"))
        with progress(teller) as bar:
            task = bar.add_task("", total=None)
            count = register(bank, registry, lambda done: bar.advance(task, done))
        teller.done(
            f"总行、{len(OUTLETS)} 个网点、{len(VAULTS)} 个金库、{len(VAULTS)} 个通道、"
            f"{len(bank.boxes)} 个款箱及标签: {count} 条命令",
            f"head office, {len(OUTLETS)} outlets, {len(VAULTS)} vaults, {len(VAULTS)} portals, "
            f"{len(bank.boxes)} boxes with tags: {count} commands",
        )
        frozen = bank.at_rest(VAULTS[0][0])[2]
        request = FreezeTagRequest(identity=frozen.identity, note="演示: 款箱报失 / reported lost")
        require_accepted(registry.freeze_tag(request).outcome)
        teller.done(f"冻结款箱 {frozen.label}", f"box {frozen.label} frozen")
    return bank, {tag.identity: tag for tag in tags}


@contextmanager
def progress(teller: Teller) -> Iterator[Progress]:
    """A bar where somebody watches; nothing where output goes to a file."""
    columns = (TextColumn("  "), BarColumn(), TextColumn("{task.completed}"), TimeElapsedColumn())
    with Progress(
        *columns,
        console=teller.console,
        transient=True,
        disable=not teller.console.is_terminal,
    ) as bar:
        yield bar


def play(service: Service, bank: Bank, tags: dict[bytes, SoftTag], teller: Teller) -> list[Door]:
    """Both doors at the same time; everything they were told."""
    total = sum(map(len, bank.recording.trials))
    teller.step(
        f"播放 {len(bank.recording.trials)} 个款箱的 {total} 条录制读取 ({SPEED:g} 倍速), "
        "混入四种异常, 中途断线一次",
        f"playing {total} recorded reads of {len(bank.recording.trials)} boxes at {SPEED:g}× speed, "
        "with four attacks among them and the line broken once",
    )
    spare = [tags[box.identity] for box in bank.at_rest(VAULTS[0][0])[:3]]
    cases: dict[str, list[Case]] = {VAULTS[0][3]: make_cases(spare)}
    counters = TagCounters(service.directory / "tag-counters.json")
    with ExitStack() as stack:
        doors = []
        for _, _, _, room, portal in VAULTS:
            channel = stack.enter_context(service.connect("portal", portal).open())
            doors.append(Door(channel, bank, room, tags, cases.get(room, []), counters))
        bar = stack.enter_context(progress(teller))
        task = bar.add_task("", total=total)
        run_doors(service, doors, bar, task)
    return doors


def run_doors(service: Service, doors: Sequence[Door], bar: Progress, task: TaskID) -> None:
    failures: list[BaseException] = []

    def run(door: Door) -> None:
        try:
            door.play(SPEED, lambda reads: bar.advance(task, reads))
        except Exception as error:
            failures.append(error)
            door.client.abandon()

    threads = [threading.Thread(target=run, args=(door,), daemon=True) for door in doors]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.1)
        threads[-1].join(0.1)
        if failures or not service.is_running():
            for door in doors:
                door.client.abandon()
    if not service.is_running():
        raise DemonstrationFailed(f"jinkud ended by itself:\n{service.tail()}")
    if failures:
        raise DemonstrationFailed(f"a portal failed: {failures[0]}") from failures[0]


def tell(doors: Sequence[Door], teller: Teller) -> None:
    taken = sum(door.client.accounts.taken for door in doors)
    resent = sum(door.client.accounts.batches_resent for door in doors)
    unheard = sum(door.client.accounts.unheard for door in doors)
    teller.done(
        f"{taken} 条读取全部入账, 无一遗漏; 断线后原样重发 {resent} 批, "
        f"另有 {unheard} 条已落盘而确认未及送达",
        f"all {taken} reads accounted for, none lost; after the break {resent} batches went again, "
        f"{unheard} reads were durable though the word was lost",
    )
    teller.step("逐条核验", "what each read was worth")
    teller.verified(doors)
    teller.step("门前放行判断", "at the gate, before they cross")
    teller.gates(doors)
    teller.step("报警及原因", "alarms and why")
    teller.alarms(doors)
    teller.step(
        "通行判断 (录制的是房间内走动, 并非过门; 不能确定的如实标明并报警)",
        "passages (people walking about a room, not boxes at a door: what the reads do not show is "
        "said to be undetermined, and alarmed)",
    )
    teller.passages(doors)


def check_receipt(service: Service, doors: Sequence[Door], teller: Teller) -> list[str]:
    """One alarm's receipt, checked from two files and nothing else."""
    teller.step("离线验证一份凭证", "one receipt verified offline")
    wanted = ReasonCode.REASON_CODE_TAG_EVIDENCE_FORGED
    alarms = [
        alarm
        for door in doors
        for case in door.cases
        if case.reason == wanted
        for alarm in alarms_of(door, case)
    ]
    if not alarms:
        return ["no alarm, so no receipt of one"]
    file, key_file = service.directory / RECEIPT_FILE, service.directory / KEY_FILE
    receipts.save(alarms[0].receipt, file)
    receipt = receipts.load(file)
    try:
        receipts.verify(receipt, key_file.read_text(encoding="utf-8"))
    except receipts.ReceiptInvalid as error:
        return [f"receipt: {error}"]
    for line in read_entry(receipt).lines(teller.language):
        teller.console.print(f"      {line}", markup=False)
    size = file.stat().st_size
    teller.done(f"凭证有效, {size} 字节", f"the receipt is valid, {size} bytes")
    if size > receipts.RECEIPT_BYTES_MAX:
        return [f"the receipt has {size} bytes, more than {receipts.RECEIPT_BYTES_MAX}"]
    return []


def end(service: Service, teller: Teller) -> list[str]:
    """Stops the service in order and verifies what it left behind."""
    teller.step("停止服务, 离线核查账本", "stopping the service, verifying the ledger offline")
    code = service.stop()
    if code:
        return [f"jinkud ended with {code}:\n{service.tail()}"]
    sound = service.fsck()
    teller.done(f"账本完好: {sound}", f"the ledger is {sound}")
    return []


def run(directory: Path, teller: Teller) -> list[str]:
    """The whole demonstration; what differed from what must be."""
    service = Service(directory)
    try:
        bank, tags = prepare(service, teller)
        doors = play(service, bank, tags, teller)
        tell(doors, teller)
        differences = [*find_differences(doors), *check_receipt(service, doors, teller)]
        return [*differences, *end(service, teller)]
    finally:
        service.stop()
