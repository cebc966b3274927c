"""Orders, made by web processes, and bills, made by consumer processes."""

from django.db import models


class Order(models.Model):
    """What a customer has ordered."""

    customer = models.CharField(max_length=100)
    total = models.IntegerField()


class Bill(models.Model):
    """One for each order, however often its message comes."""

    order = models.BigIntegerField(unique=True)
    total = models.IntegerField()
