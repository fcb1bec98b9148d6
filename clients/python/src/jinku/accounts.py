"""Entries told to a person, in Chinese and in English."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinku import receipts
from jinku.event.v1.entry_pb2 import EntryHeader, Outcome
from jinku.event.v1.event_pb2 import Event
from jinku.failure import plain
from jinku.type.v1.personal_pb2 import PersonalField, ReadPurpose
from jinku.type.v1.place_pb2 import ContainerKind, CustodyPlace, InstitutionKind, VaultKind
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.type.v1.tag_pb2 import Direction, TagScheme
from jinku.v1.common_pb2 import Receipt
from jinku.words import TITLES, words_of

DIRECTIONS = {
    Direction.DIRECTION_IN: ("入库", "in"),
    Direction.DIRECTION_OUT: ("出库", "out"),
    Direction.DIRECTION_TURNED_BACK: ("折返", "turned back"),
    Direction.DIRECTION_STRAY: ("附近停留", "stray"),
    Direction.DIRECTION_UNDETERMINED: ("方向不能确定", "direction undetermined"),
}
PLACES = {
    CustodyPlace.CUSTODY_PLACE_WITH_HOLDER: ("在保管方", "with"),
    CustodyPlace.CUSTODY_PLACE_IN_TRANSIT: ("在途, 责任方", "in transit, accountable"),
}


@dataclass(frozen=True, slots=True)
class Account:
    """One entry, line by line, the same lines in both languages."""

    zh: tuple[str, ...]
    en: tuple[str, ...]

    def lines(self, language: str) -> tuple[str, ...]:
        return {"zh": self.zh, "en": self.en}.get(language, self.zh + self.en)


def format_time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest // 1_000_000:03d} UTC"


def short(value: bytes) -> str:
    """An id as realm/entry/ordinal, another identity as hex digits."""
    if len(value) == 16 and value[:4] != bytes(4):
        realm, entry, ordinal = value[:4], value[4:12], value[12:]
        numbers = (int.from_bytes(part, "big") for part in (realm, entry, ordinal))
        return "/".join(map(str, numbers))
    return value.hex() or "–"


def read_entry(receipt: Receipt) -> Account:
    """What the receipt's entry says. It proves nothing: `receipts.verify` does."""
    header = receipts.parse_header(receipt.header)
    events = receipts.open_events(receipt)
    zh, en = map(list, describe_header(header))
    if events is None:
        digest = receipt.events_digest.hex()
        zh.append(f"事件未随附, 摘要 {digest}")
        en.append(f"events not included, digest {digest}")
    else:
        for event in events.events:
            chinese, english = describe_event(event)
            zh.append(f"· {chinese}")
            en.append(f"· {english}")
    return Account(tuple(map(plain, zh)), tuple(map(plain, en)))


def describe_header(header: EntryHeader, name: Name = short) -> tuple[list[str], list[str]]:
    accepted = header.outcome == Outcome.OUTCOME_ACCEPTED
    when, command = format_time(header.decided_at_ns), header.command or "–"
    device, policy = name(header.device_id), header.policy_version or "–"
    zh = [
        f"第 {header.index} 条记录, 域 {header.realm}, {when}",
        f"命令 {command}, 来自 {header.principal}, 设备 {device}, 规则版本 {policy}",
        "结果: 受理" if accepted else "结果: 拒绝",
    ]
    en = [
        f"entry {header.index} of realm {header.realm}, {when}",
        f"command {command} of {header.principal}, device {device}, policy version {policy}",
        "outcome: accepted" if accepted else "outcome: refused",
    ]
    for reason in header.reasons:
        chinese, english = describe_reason(reason.code)
        zh.append(f"  原因 {chinese} {reason.item}".rstrip())
        en.append(f"  reason {english} {reason.item}".rstrip())
    return zh, en


def describe_reason(code: int) -> tuple[str, str]:
    name = name_of_reason(code)
    return f"{code} {TITLES.get(code, name)}", f"{code} {name}"


def name_of_reason(code: int) -> str:
    names = {value: name for name, value in ReasonCode.items()}
    return names.get(ReasonCode.ValueType(code), f"REASON_CODE_{code}").removeprefix("REASON_CODE_")


def strip(enum: Any, value: int) -> str:
    """An enum value's name without the enum's own; the number where this client has no name."""
    named = enum.DESCRIPTOR.values_by_number.get(value)
    return str(value) if named is None else named.name


# How an id is told; who has the entries that made them tells more than its numbers.
Name = Callable[[bytes], str]
Describe = Callable[[Any, Name], tuple[str, str]]


def describe_event(event: Event, name: Name = short) -> tuple[str, str]:
    """One event in a line of each language."""
    kind = event.WhichOneof("event")
    if kind is None:
        return "未知事件(本客户端版本较旧)", "an event that this client is too old to know"
    return DESCRIBERS[kind](getattr(event, kind), name)


def describe_realm(event: Any, name: Name) -> tuple[str, str]:
    return (
        f"建立域 {event.realm}, 信任域 {event.trust_domain}",
        f"realm {event.realm} founded, trust domain {event.trust_domain}",
    )


def describe_institution(event: Any, name: Name) -> tuple[str, str]:
    zh, en = words_of(InstitutionKind, event.kind)
    return (
        f"登记机构 {event.code} {event.name} ({zh})",
        f"institution {event.code} {event.name} registered ({en})",
    )


def describe_vault(event: Any, name: Name) -> tuple[str, str]:
    zh, en = words_of(VaultKind, event.kind)
    return (
        f"登记金库 {event.code} {event.name} ({zh})",
        f"vault {event.code} {event.name} registered ({en})",
    )


def describe_portal(event: Any, name: Name) -> tuple[str, str]:
    count = len(event.antennas)
    return f"登记通道 {event.name}, 天线 {count} 个", f"portal {event.name}, {count} antennas"


def describe_container(event: Any, name: Name) -> tuple[str, str]:
    zh, en = words_of(ContainerKind, event.kind)
    item = short(event.container_id)
    return (
        f"登记款箱 {event.label} ({zh}, {item})",
        f"container {event.label} registered ({en}, {item})",
    )


def describe_issue(event: Any, name: Name) -> tuple[str, str]:
    what = f"{event.identity.hex()} ({strip(TagScheme, event.scheme).removeprefix('TAG_SCHEME_')})"
    box, old = name(event.container_id), name(event.replaces_tag_id)
    if event.replaces_tag_id:
        return f"标签 {what} 替换 {old}, 款箱 {box}", f"tag {what} replaces {old} on {box}"
    return f"标签 {what} 发给款箱 {box}", f"tag {what} issued to {box}"


def tag_change(chinese: str, english: str) -> Describe:
    def describe(event: Any, name: Name) -> tuple[str, str]:
        note = f": {event.note}" if event.note else ""
        tag = name(event.tag_id)
        return f"标签 {tag} {chinese}{note}", f"tag {tag} {english}{note}"

    return describe


def describe_custody(event: Any, name: Name) -> tuple[str, str]:
    sides = [(custody, PLACES.get(custody.place, ("?", "?"))) for custody in
             (event.before, event.after)]  # fmt: skip
    zh = " → ".join(f"{place[0]} {name(custody.holder_id)}" for custody, place in sides)
    en = " → ".join(f"{place[1]} {name(custody.holder_id)}" for custody, place in sides)
    return (
        f"款箱 {name(event.container_id)} 保管: {zh}",
        f"custody of {name(event.container_id)}: {en}",
    )


def describe_passage(event: Any, name: Name) -> tuple[str, str]:
    zh, en = DIRECTIONS.get(event.direction, ("?", "?"))
    counts = f"{event.reads_inner}+{event.reads_outer}"
    share = f"{event.confidence_permille / 10:g} %"
    first, where = format_time(event.first_read_ns), name(event.portal_id)
    return (
        f"款箱 {name(event.container_id)} 经通道门 {where} {zh}, 可信度 {share}, "
        f"内外侧读取 {counts}, 始于 {first}",
        f"{name(event.container_id)} {en} at portal {where}, confidence {share}, "
        f"{counts} reads, from {first}",
    )


def describe_alarm(event: Any, name: Name) -> tuple[str, str]:
    about = name(event.identity or event.tag_id)
    told = [describe_reason(reason.code) for reason in event.reasons]
    chinese, english = (", ".join(words) for words in zip(*told, strict=True)) if told else ("", "")
    where, more = name(event.portal_id), event.suppressed_count
    zh = f"通道门 {where} " if event.portal_id else ""
    zh += f"报警 {about}: {chinese}" + (f", 另代表 {more} 条" if more else "")
    en = f"alarm about {about}" + (f" at portal {where}" if event.portal_id else "")
    return zh, f"{en}: {english}" + (f", stands for {more} more" if more else "")


def describe_seal(event: Any, name: Name) -> tuple[str, str]:
    run = f"{event.portal_epoch}: {event.first_sequence}–{event.last_sequence}"
    return (
        f"通道门 {name(event.portal_id)} 读取批次 {run} 封存, 读取 {event.reads}, "
        f"摘要 {event.digest.hex()}",
        f"batches {run} of portal {name(event.portal_id)} sealed, {event.reads} reads, "
        f"digest {event.digest.hex()}",
    )


def describe_refusals(event: Any, name: Name) -> tuple[str, str]:
    first, last = format_time(event.first_ns), format_time(event.last_ns)
    kind = ("应报警的拒绝", "alarming refusals") if event.alarming else ("拒绝", "refusals")
    return (
        f"{event.principal} 另有 {event.count} 次{kind[0]}未单独记录, {first} 至 {last}, "
        f"摘要 {event.digest.hex()}",
        f"{event.count} further {kind[1]} of {event.principal} without entries of their own, "
        f"{first} to {last}, digest {event.digest.hex()}",
    )


def describe_pruning(event: Any, name: Name) -> tuple[str, str]:
    run = f"{event.portal_epoch}: {event.first_sequence}–{event.last_sequence}"
    return (
        f"通道门 {name(event.portal_id)} 读取批次 {run} 保存满 {event.retention_days} 日, 已删除",
        f"batches {run} of portal {name(event.portal_id)} deleted, "
        f"kept {event.retention_days} days",
    )


def describe_counters(event: Any, _: Name) -> tuple[str, str]:
    return (
        f"读取计数器 {event.tags} 个, 第 {event.turn} 批之前的值, 摘要 {event.digest.hex()}",
        f"counters of {event.tags} tags as before batch {event.turn}, digest {event.digest.hex()}",
    )


def describe_contact(event: Any, name: Name) -> tuple[str, str]:
    who, where = name(event.contact_id), name(event.institution_id)
    old = event.replaces_contact_id
    zh = f"登记机构 {where} 联系人 {who}" + (f", 替换 {name(old)}" if old else "")
    en = f"contact {who} of institution {where} registered"
    return zh, en + (f", replaces {name(old)}" if old else "")


def describe_change(event: Any, name: Name) -> tuple[str, str]:
    who = name(event.contact_id)
    told = [words_of(PersonalField, value.field) for value in event.values]
    zh, en = (", ".join(words) for words in zip(*told, strict=True)) if told else ("", "")
    return f"变更联系人 {who}: {zh}", f"contact {who} changed: {en}"


def describe_end(event: Any, name: Name) -> tuple[str, str]:
    who = name(event.contact_id)
    return f"联系人 {who} 终止", f"contact {who} ended"


def describe_reading(event: Any, name: Name) -> tuple[str, str]:
    who, (why_zh, why_en) = name(event.subject_id), words_of(ReadPurpose, event.purpose)
    more = [("历史信息", "earlier values")] if event.superseded else []
    more += [("承诺开启值", "openings")] if event.openings else []
    zh, en = (", ".join(words) for words in zip(*more, strict=True)) if more else ("", "")
    return (
        f"查阅 {who} 的个人信息, 用途 {why_zh}" + (f", 含{zh}" if zh else ""),
        f"personal values of {who} read, purpose {why_en}" + (f", with {en}" if en else ""),
    )


def describe_erasure_request(event: Any, name: Name) -> tuple[str, str]:
    who, which = name(event.subject_id), name(event.erasure_id)
    by, until = name(event.requested_by), format_time(event.expires_at_ns)
    return (
        f"申请删除 {who} 的个人信息 ({which}), 申请方 {by}, 须于 {until} 前确认",
        f"erasure of {who} asked for ({which}) by {by}, to be confirmed before {until}",
    )


def describe_erasure(event: Any, name: Name) -> tuple[str, str]:
    who = name(event.subject_id)
    if not event.erasure_id:
        return (
            f"{who} 的个人信息已删除 (恢复账本时补记)",
            f"{who} erased, carried over to this ledger",
        )
    which, by = name(event.erasure_id), name(event.confirmed_by)
    return (
        f"删除 {who} 的个人信息 ({which}), 确认方 {by}, 保存依据 {event.retention_article}",
        f"{who} erased ({which}), confirmed by {by}, kept under {event.retention_article}",
    )


def describe_key_taken(event: Any, name: Name) -> tuple[str, str]:
    number = event.generation
    return f"启用第 {number} 代封装密钥", f"wrapping key {number} taken into use"


def describe_rewrapping(event: Any, name: Name) -> tuple[str, str]:
    number, count = event.generation, event.count
    return (
        f"{count} 人的密钥改由第 {number} 代封装密钥封装",
        f"keys of {count} persons wrapped under wrapping key {number}",
    )


def describe_destruction(event: Any, name: Name) -> tuple[str, str]:
    number = event.generation
    return (
        f"第 {number} 代及更早的封装密钥已销毁",
        f"wrapping keys up to {number} destroyed",
    )


DESCRIBERS: dict[str, Describe] = {
    "realm_founded": describe_realm,
    "institution_registered": describe_institution,
    "vault_registered": describe_vault,
    "portal_registered": describe_portal,
    "container_registered": describe_container,
    "tag_issued": describe_issue,
    "tag_frozen": tag_change("冻结", "frozen"),
    "tag_unfrozen": tag_change("解冻", "unfrozen"),
    "tag_retired": tag_change("注销", "retired"),
    "custody_moved": describe_custody,
    "passage_recorded": describe_passage,
    "alarm_raised": describe_alarm,
    "refusals_counted": describe_refusals,
    "read_segment_sealed": describe_seal,
    "read_segment_pruned": describe_pruning,
    "counters_kept": describe_counters,
    "contact_registered": describe_contact,
    "contact_changed": describe_change,
    "contact_ended": describe_end,
    "personal_values_read": describe_reading,
    "erasure_requested": describe_erasure_request,
    "subject_erased": describe_erasure,
    "wrapping_key_taken": describe_key_taken,
    "subject_keys_rewrapped": describe_rewrapping,
    "wrapping_key_destroyed": describe_destruction,
}
