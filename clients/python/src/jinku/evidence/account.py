"""The package's texts, made of its entries and of nothing else, so that they can be made again.

Whoever changes a word here, or in `jinku.accounts`, gives the texts a new version: packages that
were made before carry the words of their time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jinku import accounts
from jinku.accounts import PLACES, format_time, short
from jinku.evidence.content import Content, Selection
from jinku.evidence.entries import Entry, each
from jinku.evidence.life import Change, Life, TagChange
from jinku.evidence.statement import PROVES, README
from jinku.failure import plain
from jinku.type.v1.personal_pb2 import PersonalField
from jinku.type.v1.place_pb2 import ContainerKind, Custody
from jinku.type.v1.tag_pb2 import TagState
from jinku.words import words_of

TEXT_VERSION = 3

Line = tuple[str, str]
STATES: dict[int, Line] = {
    TagState.TAG_STATE_UNSPECIFIED: ("无", "none"),
    TagState.TAG_STATE_ACTIVE: ("有效", "active"),
    TagState.TAG_STATE_FROZEN: ("冻结", "frozen"),
    TagState.TAG_STATE_RETIRED: ("注销", "retired"),
}
BLANK: Line = ("", "")


class Account:
    """One package, told."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.names = dict(find_names(content.entries))
        self.life = Life(content.container_id)
        self.changes = {entry.index: self.life.follow(entry) for entry in content.subject}

    def texts(self) -> dict[str, str]:
        """Text files of the package by name."""
        zh, en = zip(*self.lines(), strict=True)
        return {
            "README.txt": README,
            "account.en.txt": "".join(f"{plain(line)}\n" for line in en),
            "account.zh.txt": "".join(f"{plain(line)}\n" for line in zh),
        }

    def lines(self) -> Iterator[Line]:
        yield from self.head()
        yield from self.state()
        yield from self.events()
        yield from self.surroundings()
        yield from self.policies()
        if self.content.persons:
            yield from self.persons()
        yield BLANK
        yield from PROVES

    def name(self, id_: bytes) -> str:
        """As a person knows it, and its number."""
        known = self.names.get(id_)
        return f"{known} ({short(id_)})" if known else short(id_)

    def head(self) -> Iterator[Line]:
        box, checkpoint = self.name(self.content.container_id), self.content.checkpoint
        size, root = checkpoint.tree_size, checkpoint.root_hash.hex()
        yield f"证据包: 款箱 {box}", f"evidence package: container {box}"
        yield f"账本 {checkpoint.origin}", f"journal {checkpoint.origin}"
        yield (
            f"截至共 {size} 条记录的签名检查点, 根哈希 {root}",
            (f"as of the signed checkpoint of {size} entries, root hash {root}"),
        )
        count = len(self.content.subject)
        if self.content.selection is Selection.EVENTS:
            yield (
                f"所选: 涉及该款箱事件的记录 {count} 条",
                (f"selected: {count} entries with an event about it"),
            )
        else:
            yield (
                f"所选: 涉及该款箱事件的记录及被拒绝的命令, 共 {count} 条",
                (f"selected: {count} entries with an event about it or a refused command"),
            )
        for one in self.content.earlier:
            yield from self.earlier(one.note)

    def earlier(self, note: str) -> Iterator[Line]:
        size = note.split("\n")[1]
        yield (
            f"较早的 {size} 条记录的检查点, 已证明是该账本的开头",
            (f"the earlier checkpoint of {size} entries is proven to begin this journal"),
        )

    def state(self) -> Iterator[Line]:
        life = self.life
        yield BLANK
        yield "一、本包各条记录之后的状态", "1. State after the entries in this package"
        last = self.content.subject[-1].index
        yield (
            f"最后一条为第 {last} 条; 此前此后有无遗漏, 本包不能证明, 只有 `jinku evidence complete` 能查明",
            f"the last is entry {last}; whether others were left out, before it or after, this package "
            "cannot show: only `jinku evidence complete` does",
        )
        if life.box is not None:
            kind_zh, kind_en = words_of(ContainerKind, life.box.kind)
            owner, vault = self.name(life.box.institution_id), self.name(life.box.vault_id)
            yield (
                f"款箱 {life.box.label} ({kind_zh}), 所属机构 {owner}, 所属金库 {vault}",
                (f"container {life.box.label} ({kind_en}) of institution {owner}, vault {vault}"),
            )
            zh, en = self.custody(life.custody)
            yield f"保管: {zh}", f"custody: {en}"
        for tag_id, state in life.tags.items():
            zh, en = STATES[state]
            yield f"标签 {self.name(tag_id)}: {zh}", f"tag {self.name(tag_id)}: {en}"
        yield (
            f"通行 {life.passages} 次, 报警 {life.alarms} 次",
            (f"{life.passages} passages, {life.alarms} alarms"),
        )

    def events(self) -> Iterator[Line]:
        yield BLANK
        yield "二、经过", "2. What happened"
        for entry in self.content.subject:
            yield BLANK
            yield from self.entry(entry)
            for change in self.changes[entry.index]:
                yield self.change(change)

    def entry(self, entry: Entry) -> Iterator[Line]:
        yield from zip(*accounts.describe_header(entry.header, self.name), strict=True)
        for event in entry.events.events:
            zh, en = accounts.describe_event(event, self.name)
            yield f"· {zh}", f"· {en}"
        for extra in entry.events.extras:
            value = extra.WhichOneof("value") or ""
            said = getattr(extra, value, "")
            text = said.hex() if isinstance(said, bytes) else said
            yield f"  附加 {extra.name}: {text}", f"  extra {extra.name}: {text}"

    def change(self, change: Change) -> Line:
        if isinstance(change, TagChange):
            (zh0, en0), (zh1, en1) = STATES[change.before], STATES[change.after]
            tag = self.name(change.tag_id)
            return f"  变更: 标签 {tag} {zh0} → {zh1}", f"  change: tag {tag} {en0} → {en1}"
        zh0, en0 = self.custody(change.before) if change.before else ("无", "none")
        zh1, en1 = self.custody(change.after)
        return f"  变更: 保管 {zh0} → {zh1}", f"  change: custody {en0} → {en1}"

    def custody(self, custody: Custody) -> Line:
        zh, en = PLACES.get(custody.place, ("?", "?"))
        holder = self.name(custody.holder_id)
        return f"{zh} {holder}", f"{en} {holder}"

    def surroundings(self) -> Iterator[Line]:
        told = {entry.index for entry in (*self.content.subject, *self.content.of_persons)}
        yield BLANK
        yield (
            "三、上文所指机构、金库、通道门与服务",
            "3. Institutions, vaults, portals, services named",
        )
        for entry in self.content.entries:
            if entry.index not in told:
                when = format_time(entry.header.decided_at_ns)
                for event in entry.events.events:
                    zh, en = accounts.describe_event(event, self.name)
                    yield (
                        f"第 {entry.index} 条记录, {when}: {zh}",
                        (f"entry {entry.index}, {when}: {en}"),
                    )

    def policies(self) -> Iterator[Line]:
        yield BLANK
        yield "四、判定时适用的规则版本", "4. Policy versions in force"
        for version, indices in policies_of(self.content).items():
            listed = ", ".join(map(str, indices))
            yield f"{version or '–'}: 第 {listed} 条", f"{version or '–'}: entries {listed}"

    def persons(self) -> Iterator[Line]:
        content = self.content
        opened = {(one.subject_id, one.field, one.entry_index): one for one in content.opened}
        yield BLANK
        yield "五、本包所含所属机构的联系人", "5. Contacts of the institution in this package"
        for entry in content.of_persons:
            yield BLANK
            yield from self.entry(entry)
        for who, field, index, _ in content.commitments():
            zh, en = words_of(PersonalField, field)
            zh, en = f"{short(who)} {zh} (第 {index} 条)", f"{short(who)} {en} (entry {index})"
            one = opened.get((who, field, index))
            if one is not None:
                yield f"{zh}: {one.value}", f"{en}: {one.value}"
            elif who in content.erased:
                erased = content.erased[who]
                yield f"{zh}: 已删除, 见第 {erased} 条", f"{en}: erased by entry {erased}"
            else:
                yield f"{zh}: 未提供, 仅有承诺值", f"{en}: withheld, a commitment only"


def policies_of(content: Content) -> dict[str, list[int]]:
    """Entries by the policy version in force when they were decided."""
    found: dict[str, list[int]] = {}
    for entry in content.entries:
        found.setdefault(entry.header.policy_version, []).append(entry.index)
    return found


def find_names(entries: Iterable[Entry]) -> Iterator[tuple[bytes, str]]:
    """What persons call the things that these entries made."""
    entries = list(entries)
    for realm in each(entries, "realm_founded"):
        yield from ((service.service_id, service.name) for service in realm.services)
    for one in each(entries, "institution_registered"):
        yield one.institution_id, f"{one.code} {one.name}"
    for one in each(entries, "vault_registered"):
        yield one.vault_id, f"{one.code} {one.name}"
    for one in each(entries, "portal_registered"):
        yield one.portal_id, one.name
    for one in each(entries, "container_registered"):
        yield one.container_id, one.label
    for one in each(entries, "tag_issued"):
        yield one.tag_id, one.identity.hex().upper()
