"""What every package says about itself: how it is verified, what it proves and what not."""

from __future__ import annotations

README = """\
证据包 / Evidence package (jinku)

本包由账本中的原始记录组成, 任何人均可离线核验, 无需信任提供者:
This package holds journal entries as they were hashed. Anybody can verify it offline, without
trusting whoever handed it over:

    jinku evidence verify <package> --key <realm verifier key>
    python3 jinku-verify.pyz <package> --key <realm verifier key>

验证程序与验证公钥请另行取得, 不要使用随本包一同交来的程序或公钥。
Take the verifier and the verifier key from elsewhere, never from whoever handed over this package.

account.zh.txt, account.en.txt  记述, 由记录生成 / what happened, made of the entries
checkpoint                      签名检查点 / the signed checkpoint (c2sp.org/tlog-checkpoint)
entries/*.header, *.events      记录原文 / the entries (jinku.event.v1.EntryHeader, Events)
entries/*.tlog-proof            存在性证明 / inclusion proofs (c2sp.org/tlog-proof) of the leaf
                                header || SHA-256(events)
earlier/*                       较早的检查点及一致性证明 / earlier checkpoints, and that this one
                                goes on from them (c2sp.org/tlog-witness request)
personal.json                   个人信息, 仅当获准提供 / personal values, where they were given
manifest.json                   各文件的 SHA-256 / SHA-256 of every file
"""

# What is and what is not proven, line by line.
PROVES: tuple[tuple[str, str], ...] = (
    ("本证据包证明什么", "What this package proves"),
    (
        "· 以上每条记录原样存在于该检查点所签名的账本中, 位置即其序号; 检查点之后无人能改动、调换或删除。",
        "· Each entry above stands, as it is, at its place in the journal that the checkpoint signs; "
        "nobody can change, move or remove it afterwards.",
    ),
    (
        "· 各记录在其所述范围内前后衔接: 每次保管变更写明变更前的责任方, 标签状态的先后须为规则所许。"
        "抽走一条记录, 仅在因此不衔接之处会被发现。",
        "· The entries follow from each other as far as they say: a change of custody names the holder "
        "before it, and a tag's states must be possible one after the other. An entry taken out is "
        "found where that breaks, and only there.",
    ),
    (
        "· 记述由记录生成, 核验时重新生成并逐字比对。",
        "· The account is made of the entries; verifying makes it again and compares every byte.",
    ),
    ("本证据包不证明什么", "What it does not prove"),
    (
        "· 不证明没有其他涉及该款箱的记录, 无论在以上各条之间还是最后一条之后; 因此也不证明检查点时的状态即为上文所述。"
        "要确定这一点, 须由持审计证书者运行 `jinku evidence complete`: 读取整个账本, 重算根哈希, 逐条比对。",
        "· That there are no further entries about the container, between these or after the last, nor "
        "therefore that its state at the checkpoint is the one told above. That takes an auditor's "
        "certificate: `jinku evidence complete` reads the whole journal, computes its root and "
        "compares.",
    ),
    (
        "· 不证明没有其他被拒绝的涉及该款箱的命令: 同一调用方超出限额的拒绝不单独记录, 账本只记其次数与摘要, "
        "`jinku evidence complete` 也无法查出。",
        "· That no other command about it was refused: refusals beyond a caller's quota have no entry of "
        "their own, the journal has their number and digest alone, and `jinku evidence complete` "
        "cannot show them either.",
    ),
    (
        "· 时间是服务的时钟; 见证签名的时间由见证方另行证明。设备时间只是设备的陈述。",
        "· Times are of the service's clock; those of cosignatures are the witnesses' own. A device's "
        "time is what the device says.",
    ),
    (
        "· 标签读取的原始数据和录像不在本包内: 通行记录只指明读取批次, 账本另存各批次的摘要。",
        "· Raw reads and video are not in it: a passage names its batches of reads, of which the "
        "journal keeps digests in other entries.",
    ),
)
