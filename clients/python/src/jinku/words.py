"""What the schema's numbers are called by persons: in Chinese here, in English after their names.

Of a reason only the title: the text that says what to do is the service's and comes with its
answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "INSTITUTION_KIND_HEAD_OFFICE": "总行",
        "INSTITUTION_KIND_BRANCH": "分支机构",
        "INSTITUTION_KIND_OUTLET": "网点",
        "VAULT_KIND_CASH_CENTRE": "现金中心",
        "VAULT_KIND_BRANCH": "分支库",
        "VAULT_KIND_OUTLET": "网点库",
        "CONTAINER_KIND_TELLER_BOX": "柜员现金箱",
        "CONTAINER_KIND_CASH_BOX": "款箱",
        "CONTAINER_KIND_CASH_BAG": "款袋",
        "PERSONAL_FIELD_CONTACT_NAME": "联系人姓名",
        "PERSONAL_FIELD_CONTACT_TELEPHONE": "联系电话",
        "READ_PURPOSE_CONTACTING": "业务联系",
        "READ_PURPOSE_CHECKING": "信息核对",
        "READ_PURPOSE_SUBJECT_ASKED": "本人查询",
        "READ_PURPOSE_EVIDENCE": "检查取证",
    }
)
# Rejected batches (500) are never journalled.
TITLES: Mapping[int, str] = MappingProxyType(
    {
        101: "指令编号重复使用且内容不同",
        102: "拒绝过多, 未单独记录",
        103: "其余应报警的拒绝已合并计数",
        104: "系统时钟跳变",
        201: "机构号已登记",
        202: "机构未登记",
        203: "金库编号已登记",
        204: "金库未登记",
        205: "通道门已登记",
        206: "通道门未登记",
        207: "款箱编号已登记",
        208: "款箱未登记",
        209: "内外侧天线不全",
        210: "不能以自身为上级机构",
        301: "标签标识已绑定过款箱",
        302: "款箱已有有效标签",
        303: "标签未登记",
        304: "标签已注销",
        305: "标签已处于冻结状态",
        306: "标签未被冻结",
        307: "标签标识无效",
        308: "标签认证方式无效",
        309: "标签主密钥未加载",
        310: "款箱没有可更换的有效标签",
        401: "未登记的标签",
        402: "标签应答系伪造",
        403: "标签应答系重放",
        404: "标签已冻结",
        405: "标签未提供防伪应答",
        406: "通行方向不能确定",
        407: "标签已注销, 不得使用",
        408: "款箱不属于本金库",
        409: "其余报警已合并计数",
        601: "机构已有联系人",
        602: "机构没有联系人",
        603: "已不再担任联系人",
        604: "仍担任联系人",
        605: "没有需变更的信息",
        606: "没有该人员的个人信息",
        607: "个人信息已删除",
        608: "个人信息的密钥无法解开",
        609: "仅限个人信息保护负责人",
        610: "保存期限未满",
        611: "账本时间与系统时钟不一致",
        612: "已有待确认的删除申请",
        613: "没有该删除申请",
        614: "不得由申请主体自行确认",
        615: "删除申请已失效",
    }
)


def words_of(enum: Any, number: int) -> tuple[str, str]:
    """A value of an enum, in Chinese and in English; its number where this client has no name."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    if value is None:
        return str(number), str(number)
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
    english = value.name.removeprefix(prefix).lower().replace("_", " ")
    return KINDS.get(value.name, english), english
