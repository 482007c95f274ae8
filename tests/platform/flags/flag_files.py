"""Definitions of flags for tests."""

FLAGS = """\
public_attributes: [country]
holdouts:
  everything: {share: 0.05}
flags:
  new-cart:
    description: Cart on one page
    owner: checkout team
    default: off
    rules:
      - when: {country: {$in: [CH, AT]}}
        serve: on
  banner:
    kind: text
    variants: {none: "", spring: Spring sale}
    default: none
    rules:
      - when: {email: ada@shop.example}
        serve: spring
  checkout:
    kind: text
    variants: {long: three pages, short: one page}
    default: long
    rules:
      - experiment: {key: checkout-2027, arms: [long, short]}
  "结账":
    default: off
    rules: [{serve: on, share: 0.5}]
"""
