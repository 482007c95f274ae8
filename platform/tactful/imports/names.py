"""Names that files give to the fields of events, items and users, in several languages.

They are compared without case, spaces and punctuation: ``Customer ID`` is ``customerid``. Earlier
names of a field win over later ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

USER, DEVICE, SESSION, ORDER = "user_id", "device_id", "session_id", "order"
ITEM, TIME, TYPE, EVENT = "item_id", "timestamp", "type", "event_id"
RECOMMENDATION, CLOCK, RATING = "recommendation_id", "clock", "rating"
PRICE, TOTAL, QUANTITY, CURRENCY = "price", "total", "quantity", "currency"
CATEGORY, TITLE, AVAILABLE, DWELL = "category", "title", "available", "dwell_ms"
BARE_ID, UPDATED = "id", "updated"

_NAMES: Mapping[str, str] = {
    USER: """
        user_id user userid uid customer_id customer customer_no customer_number cust_id
        cust_no cust_number cust
        client_no member_id member account_id buyer_id shopper_id person_id profile_id
        household_id household_key reviewer_id user_name
        kunde kunden_id kunden_nr kundennummer benutzer benutzer_id nutzer nutzer_id
        用户 用户id 用户编号 会员 会员id 会员编号 客户 客户id 客户编号 买家id 顾客id
        usuario id_usuario cliente id_cliente client id_client utilisateur""",
    DEVICE: """
        device_id device visitor_id visitor anonymous_id client_id cookie_id full_visitor_id
        user_pseudo_id 设备id 访客id""",
    SESSION: """
        session_id session user_session visit_id visit sitzung sitzung_id 会话 会话id""",
    ORDER: """
        invoice_no invoice invoice_id order_id order_no order_number order basket_id basket
        transaction_id transaction_no receipt_id receipt_no receipt cart_id
        rechnung rechnungs_nr rechnungsnummer bestellung bestell_nr bestellnummer bestell_id
        auftrags_nr auftragsnummer bon_nr beleg_nr 订单 订单号 订单id 订单编号 交易号""",
    ITEM: """
        item_id item product_id product_code prod_id article_id article article_no
        article_number stock_code sku lineitem_sku goods_id asin parent_asin movie_id book_id
        isbn song_id track_id artist_id business_id video_id news_id content_id aid
        variant_sku handle url_handle
        item_no item_number product_no artikel artikel_id artikel_nr artikelnummer produkt
        produkt_id produkt_nr 商品 商品id 商品编号 商品编码 产品 产品id 产品编号 货号 物品id
        producto id_producto produit id_produit ean gtin upc product""",
    TIME: """
        timestamp event_time event_timestamp time at when ts datetime date_time date occurred_at
        created_at invoice_date order_date order_purchase_timestamp order_created_at
        purchase_date purchased_at transaction_date transaction_timestamp transaction_time t_dat
        viewed_at visited_at rated_at review_time unix_review_time time_stamp unix_time
        datum zeitpunkt zeitstempel bestelldatum rechnungsdatum kaufdatum erstellt_am
        时间 日期 时间戳 下单时间 购买时间 创建时间 行为时间 浏览时间 交易时间 fecha date_achat""",
    CLOCK: "time time_of_day hour_of_day uhrzeit zeit 时刻 时间 hora heure",
    TYPE: """
        type event_type event event_name action action_type behavior behaviour behavior_type
        interaction interaction_type activity ereignis aktion 行为 行为类型 事件 事件类型""",
    EVENT: "event_id event_uuid",
    RECOMMENDATION: "recommendation_id",
    RATING: "rating score stars overall review_score bewertung sterne 评分 puntuacion note",
    PRICE: """
        price unit_price item_price variant_price price_per_unit price_each lineitem_price
        sales_price regular_price list_price retail_price preis einzelpreis stueckpreis
        stückpreis verkaufspreis 价格 单价 售价
        precio prix""",
    TOTAL: "amount total line_total sales_value total_price betrag gesamtpreis summe 金额 总价",
    QUANTITY: """
        quantity qty count units lineitem_quantity menge anzahl stueck stück 数量 件数 cantidad
        quantite""",
    CURRENCY: "currency currency_code waehrung währung 币种 货币 moneda devise",
    CATEGORY: """
        category category_name category_code category_id product_category product_type
        google_product_category product_group product_group_name department commodity_desc genre
        genres categories type kategorie warengruppe produktgruppe 类别 类目 分类 品类 类目id
        categoria
        categorie""",
    TITLE: """
        title name product_name item_name product_title item_title prod_name movie_title product
        description product_description titel bezeichnung artikelbezeichnung artikelname
        produktname beschreibung 名称 标题 商品名称 商品名 产品名称 nombre nom titre""",
    AVAILABLE: """
        available availability in_stock is_available is_active stock stock_quantity
        inventory inventory_quantity current_stock stock_level
        verfuegbar verfügbar bestand lagerbestand lieferbar
        库存 上架 disponible""",
    DWELL: "dwell_ms",
    BARE_ID: "id 编号",
    UPDATED: "timestamp updated_at last_modified modified_at",
}


def normal(name: str) -> str:
    """Return a name without case, spaces, punctuation and a prefix such as ``g:``."""
    text = unicodedata.normalize("NFKC", name).casefold()
    if ":" in text:
        text = text.rpartition(":")[2]
    return re.sub(r"[\W_]+", "", text)


def normal_words(text: str) -> frozenset[str]:
    """Return the words of a text as `normal` names."""
    return frozenset(map(normal, text.split()))


_DEMOGRAPHIC = normal_words(
    """
    age age_group age_range age_desc gender sex country region state province city language locale
    occupation job profession income income_desc marital_status household_size hh_comp_desc
    household_comp home_ownership homeowner_desc kids_count kid_category_desc tier segment
    membership loyalty loyalty_tier plan newsletter
    alter altersgruppe geschlecht land bundesland stadt sprache beruf einkommen familienstand
    年龄 性别 国家 省份 城市 语言 职业 收入 会员等级 edad sexo pais ciudad"""
)
# Parts of names of columns that identify a person, which are never sent unasked.
_IDENTIFYING = normal_words(
    """
    email mail phone mobile telefon handy firstname lastname surname fullname vorname nachname
    street address strasse anschrift zip postcode postal plz iban birth geburt password
    passwort ssn ip passport 姓名 邮箱 电话 手机 地址 身份证"""
)
_TIME_ENDS = ("timestamp", "time", "date", "ts", "datum", "zeit", "时间", "日期")
_OTHER_TIMES = normal_words(
    """
    update modified birth geburt deliver ship liefer expir due end release publish launch sign_up
    registered 更新 生日 出生 发货"""
)
_PURCHASE = normal_words("invoice order purchase transaction bestell rechnung kauf 下单 购买 交易")


def candidates(field: str, columns: Iterable[str]) -> list[str]:
    """Return the columns that may be a field by their name, the likeliest first."""
    order = {normal(name): place for place, name in enumerate(_NAMES[field].split())}
    named = [(order[normal(name)], name) for name in columns if normal(name) in order]
    return [name for _, name in sorted(named, key=lambda pair: pair[0])]


def like_times(field: str, columns: Iterable[str]) -> list[str]:
    """Return the columns whose names end like those of the time of an event."""
    if field != TIME:
        return []
    ends = [name for name in columns if normal(name).endswith(_TIME_ENDS)]
    return [name for name in ends if not is_other_time(name)]


def is_other_time(column: str) -> bool:
    """Whether the name of a time says that it is not that of an event."""
    name = normal(column)
    return any(part in name for part in _OTHER_TIMES)


def is_identifying(column: str) -> bool:
    """Whether a column is likely to name a person or to reach one."""
    name = normal(column)
    words = set(re.split(r"[\W_]+", column.casefold()))
    return any(part in (words if len(part) < 4 else name) for part in _IDENTIFYING)


def is_demographic(column: str) -> bool:
    """Whether a column is known to describe a group of people."""
    return normal(column) in _DEMOGRAPHIC


def is_of_purchase(column: str) -> bool:
    """Whether the name of a time says that something was bought then."""
    name = normal(column)
    return any(word in name for word in _PURCHASE)
